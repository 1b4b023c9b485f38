package attrs

import (
	"encoding/csv"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// fields splits a line of CSV; an empty one has no fields.
func fields(v string) ([]string, error) {
	if v == "" {
		return nil, nil
	}
	r := csv.NewReader(strings.NewReader(v))
	list, err := r.Read()
	if err != nil {
		return nil, err
	}
	if _, err := r.Read(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one line")
	}
	return list, nil
}

func (b *Build) readHosts(in map[string]string) error {
	list, err := fields(in["add-hosts"])
	if err != nil {
		return usage("failed to parse additional hosts: %v", err)
	}
	for _, f := range list {
		host, ip, ok := strings.Cut(strings.ToLower(f), "=")
		if !ok {
			return usage("failed to parse additional hosts: invalid key-value pair %s", f)
		}
		if ip == worker.HostGateway { // the daemon knows
			b.Request.ExtraHosts = append(b.Request.ExtraHosts, op.HostIP{Host: host, IP: ip})
			continue
		}
		addr := net.ParseIP(ip)
		if addr == nil {
			return usage("failed to parse additional hosts: failed to parse IP %s", ip)
		}
		b.Request.ExtraHosts = append(b.Request.ExtraHosts, op.HostIP{Host: host, IP: addr.String()})
	}
	return nil
}

// readLimits reads what bounds the processes of a build. Sizes are bytes, times microseconds.
func (b *Build) readLimits(in map[string]string) error {
	r := &b.Request
	if v := in["shm-size"]; v != "" {
		var err error
		if r.ShmSize, err = strconv.ParseInt(v, 10, 64); err != nil {
			return usage("failed to parse shm size: %v", err)
		}
	}
	list, err := fields(in["ulimit"])
	if err != nil {
		return usage("failed to parse ulimit: %v", err)
	}
	for _, f := range list {
		u, err := units.ParseUlimit(f)
		if err != nil {
			return usage("failed to parse ulimit: %v", err)
		}
		r.Ulimits = append(r.Ulimits, op.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	for _, n := range []struct {
		key       string
		to        *int64
		unlimited bool // -1 is allowed
	}{
		{"memory", &r.Limits.Memory, false},
		{"memswap", &r.Limits.MemorySwap, true},
		{"cpushares", &r.Limits.CPUShares, false},
		{"cpuperiod", &r.Limits.CPUPeriod, false},
		{"cpuquota", &r.Limits.CPUQuota, false},
	} {
		if err := readNumber(in, n.key, n.to, n.unlimited); err != nil {
			return err
		}
	}
	for key, to := range map[string]*string{"cpusetcpus": &r.Limits.CPUSetCPUs, "cpusetmems": &r.Limits.CPUSetMems} {
		v := in[key]
		if err := checkSet(v); err != nil {
			return usage("failed to parse resource limits: invalid %s value: %s: %v", key, v, err)
		}
		*to = v
	}
	return nil
}

func readNumber(in map[string]string, key string, to *int64, unlimited bool) error {
	v := in[key]
	if v == "" {
		return nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	switch {
	case err != nil:
		return usage("failed to parse resource limits: invalid %s value: %s: %v", key, v, err)
	case n == -1 && unlimited:
	case n <= 0 && unlimited:
		return usage("failed to parse resource limits: invalid %s value: %s: must be -1 (unlimited) or > 0", key, v)
	case n <= 0:
		return usage("failed to parse resource limits: invalid %s value: %s: must be > 0", key, v)
	}
	*to = n
	return nil
}

// maxIndex is the largest number of a processor or a memory node.
const maxIndex = 8192

// checkSet checks a list of numbers and ranges, as "0-3,5".
func checkSet(v string) error {
	for part := range strings.SplitSeq(v, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		lo, err1 := strconv.Atoi(strings.TrimSpace(first))
		hi, err2 := strconv.Atoi(strings.TrimSpace(last))
		if err1 != nil || err2 != nil || lo < 0 || hi < lo || hi > maxIndex {
			return errors.New("invalid element " + strconv.Quote(part))
		}
	}
	return nil
}
