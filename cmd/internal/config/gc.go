package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// GC configures when what is not used goes.
type GC struct {
	// MaxUsed is how many bytes the build cache may take; 0 for a share of the disk. "20GB" or a number.
	MaxUsed Bytes `toml:"max-used"`
	// KeepFor spares what was used within that time, unless the disk is full otherwise.
	KeepFor Duration `toml:"keep-for"`
}

// GCRule is a rule of buildkitd.toml: [[worker.oci.gcpolicy]]. Rules are applied one after the other.
type GCRule struct {
	// All has also what images share and what is internal.
	All bool `toml:"all"`
	// Filters say which records the rule is about, in containerd's language; one of them must match, and none is all.
	Filters []string `toml:"filters"`
	// KeepDuration spares what was used within that time.
	KeepDuration Duration `toml:"keepDuration"`
	// KeepBytes is the old name of ReservedSpace.
	KeepBytes Space `toml:"keepBytes"`
	// ReservedSpace is what the records may always keep.
	ReservedSpace Space `toml:"reservedSpace"`
	// MaxUsedSpace is what they may take at most; 0 for no limit.
	MaxUsedSpace Space `toml:"maxUsedSpace"`
	// MinFreeSpace is what is to be free on the disk, though the records keep ReservedSpace.
	MinFreeSpace Space `toml:"minFreeSpace"`
}

// GCSpace is the part of [worker.oci] that says how much of the disk the build cache may take.
type GCSpace struct {
	GC            *bool    `toml:"gc"`
	KeepStorage   Space    `toml:"gckeepstorage"` // the old name of ReservedSpace
	ReservedSpace Space    `toml:"reservedSpace"`
	MaxUsedSpace  Space    `toml:"maxUsedSpace"`
	MinFreeSpace  Space    `toml:"minFreeSpace"`
	Policy        []GCRule `toml:"gcpolicy"`
}

// The default share of the disk.
const (
	defaultReserved = 10e9 // bytes, but at most a tenth of the disk
	defaultMaxUsed  = 100e9
)

// GCRules returns the rules by which the build cache is collected, for a disk of so many bytes; none if it is not.
func (d *Daemon) GCRules(disk int64) []GCRule {
	w := &d.Worker.OCI.GCSpace
	switch {
	case w.GC != nil && !*w.GC:
		return nil
	case len(w.Policy) > 0:
		rules := make([]GCRule, len(w.Policy))
		for i, r := range w.Policy {
			if r.ReservedSpace == (Space{}) {
				r.ReservedSpace = r.KeepBytes
			}
			rules[i] = r
		}
		return rules
	}
	limit := GCRule{ReservedSpace: w.ReservedSpace, MaxUsedSpace: w.MaxUsedSpace, MinFreeSpace: w.MinFreeSpace}
	if limit.ReservedSpace == (Space{}) {
		limit.ReservedSpace = w.KeepStorage
	}
	if limit.ReservedSpace == (Space{}) && limit.MaxUsedSpace == (Space{}) && limit.MinFreeSpace == (Space{}) {
		limit.ReservedSpace = Space{Bytes: min(defaultReserved, disk/10)}
		limit.MaxUsedSpace = Space{Bytes: min(defaultMaxUsed, disk/10*8)}
		limit.MinFreeSpace = Space{Percent: 20}
	}
	if d.GC.MaxUsed > 0 {
		limit.MaxUsedSpace = Space{Bytes: int64(d.GC.MaxUsed)}
		limit.ReservedSpace.Bytes = min(limit.ReservedSpace.Of(disk), int64(d.GC.MaxUsed))
		limit.ReservedSpace.Percent = 0
	}
	old, capped, all := limit, limit, limit
	old.KeepDuration = Duration(60 * 24 * time.Hour)
	capped.KeepDuration, all.KeepDuration = d.GC.KeepFor, d.GC.KeepFor
	all.All = true
	return []GCRule{
		// What is got again most easily goes first.
		{
			Filters:      []string{"type==source.local", "type==exec.cachemount", "type==source.git.checkout"},
			KeepDuration: Duration(48 * time.Hour),
			MaxUsedSpace: Space{Bytes: 512e6},
		},
		old, capped, all,
	}
}

// setKeepStorage reads the value of --oci-worker-gc-keepstorage: "Reserved[,Free[,Maximum]]", in megabytes or with units.
func (s *GCSpace) setKeepStorage(value string) error {
	fields := strings.Split(value, ",")
	if len(fields) > 3 {
		return fmt.Errorf("%q is not Reserved[,Free[,Maximum]]", value)
	}
	for i, to := range []*Space{&s.ReservedSpace, &s.MinFreeSpace, &s.MaxUsedSpace}[:len(fields)] {
		if n, err := strconv.ParseInt(fields[i], 10, 64); err == nil {
			*to = Space{Bytes: n * 1e6}
		} else if err := to.UnmarshalText([]byte(fields[i])); err != nil {
			return err
		}
	}
	return nil
}

// validate says what is wrong with the limits.
func (s *GCSpace) validate() error {
	var errs []error
	for i, r := range s.Policy {
		for _, space := range []Space{r.KeepBytes, r.ReservedSpace, r.MaxUsedSpace, r.MinFreeSpace} {
			if space.Bytes < 0 {
				errs = append(errs, fmt.Errorf("worker.oci.gcpolicy: rule %d has a negative size", i+1))
			}
		}
		if r.KeepDuration < 0 {
			errs = append(errs, fmt.Errorf("worker.oci.gcpolicy: rule %d has a negative keepDuration", i+1))
		}
	}
	return errors.Join(errs...)
}
