package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// foreignOptions are flags of docker's two builders that ask for what is not done here. None of them is taken and
// forgotten: a build goes on without a cache from elsewhere, and says so; what would give another image than the one asked
// for, or other rights to its steps, is refused.
type foreignOptions struct {
	cacheFrom, cacheTo                    []string
	securityOpt, attest, policy, resource []string
	isolation, provenance, sbom, builder  string
	squash                                bool
}

func (o *foreignOptions) register(f *pflag.FlagSet) {
	f.StringArrayVar(&o.cacheFrom, "cache-from", nil, `External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")`)
	f.StringArrayVar(&o.cacheTo, "cache-to", nil, `Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")`)
	f.StringArrayVar(&o.securityOpt, "security-opt", nil, "")
	f.StringArrayVar(&o.attest, "attest", nil, "")
	f.StringArrayVar(&o.policy, "policy", nil, "")
	f.StringArrayVar(&o.resource, "resource", nil, "")
	f.StringVar(&o.isolation, "isolation", "", "")
	f.StringVar(&o.provenance, "provenance", "", "")
	f.StringVar(&o.sbom, "sbom", "", "")
	f.StringVar(&o.builder, "builder", "", "")
	f.BoolVar(&o.squash, "squash", false, "")
	f.Bool("disable-content-trust", true, "") // there is none
	for _, name := range []string{
		"security-opt", "attest", "policy", "resource", "isolation", "provenance", "sbom", "builder", "squash", "disable-content-trust",
	} {
		_ = f.MarkHidden(name) // it exists
	}
}

// check refuses what is refused, by the name of its flag.
func (o *foreignOptions) check() error {
	for _, a := range o.attest {
		if !disabled(a) {
			return usagef("--attest %s is not supported: no attestations are made", a)
		}
	}
	switch {
	case len(o.securityOpt) > 0:
		return usagef("--security-opt %s is not supported: steps run under the default profiles; "+
			`a RUN with --security=insecure, which --allow security.insecure permits, runs without`, o.securityOpt[0])
	case o.isolation != "" && o.isolation != "default":
		return usagef("--isolation %s is not supported: on Linux there is only \"default\"", o.isolation)
	case o.squash:
		return usagef("--squash is not supported: layers are what is cached and shared; " +
			"to have one layer, copy the tree of a stage into a stage that is FROM scratch")
	case !disabled(o.provenance):
		return usagef("--provenance=%s is not supported: no attestations are made", o.provenance)
	case !disabled(o.sbom):
		return usagef("--sbom=%s is not supported: no attestations are made", o.sbom)
	case o.builder != "" && o.builder != "default":
		return usagef("--builder %s is not supported: there is one builder, which --addr or --root selects", o.builder)
	case len(o.policy) > 0:
		return usagef("--policy %s is not supported: no policies are evaluated", o.policy[0])
	case len(o.resource) > 0:
		return usagef("--resource %s is not supported: use --memory, --cpu-shares, --cpu-quota and their like", o.resource[0])
	}
	return nil
}

// disabled says whether an attestation is not wanted: there is no flag, it is false, or among its fields is disabled=true.
func disabled(flag string) bool {
	if on, err := strconv.ParseBool(flag); flag == "" || err == nil && !on {
		return true
	}
	for field := range strings.SplitSeq(flag, ",") {
		if key, value, _ := strings.Cut(field, "="); key == "disabled" {
			on, err := strconv.ParseBool(value)
			return err == nil && on
		}
	}
	return false
}

// notDone is what the build goes on without.
func (o *foreignOptions) notDone() []*boxbuildv1.Event {
	var out []*boxbuildv1.Event
	warn := func(format, arg string) {
		out = append(out, &boxbuildv1.Event{Event: &boxbuildv1.Event_Warning{Warning: &boxbuildv1.Warning{
			Short: fmt.Sprintf(format, arg),
		}}})
	}
	for _, c := range o.cacheFrom {
		warn("--cache-from %s was not used: the build cache is not imported from elsewhere", c)
	}
	for _, c := range o.cacheTo {
		warn("--cache-to %s was not done: the build cache is not exported", c)
	}
	return out
}
