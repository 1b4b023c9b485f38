// Package attrs reads the attributes that BuildKit's clients send to the Dockerfile frontend: a flat map of texts becomes a
// typed request, once, at the edge.
//
// The keys and the messages are those of BuildKit's dockerui. A key that is not known is ignored, as there: clients send
// what newer frontends know, and tools keep notes of their own among the attributes.
package attrs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	controlapi "github.com/moby/buildkit/api/services/control"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// The prefixes of keys that have a name in them.
const (
	prefixArg     = "build-arg:"
	prefixLabel   = "label:"
	prefixContext = "context:"
	prefixSession = "local-sessionid:"
	prefixShared  = "sharedkey:localdir:"
	prefixInput   = "input-metadata:"
	prefixAttest  = "attest:"
	prefixAttArg  = "build-arg:BUILDKIT_ATTEST_"
)

// The names that a client's directories have unless an attribute says otherwise.
const (
	localContext    = "context"
	localDockerfile = "dockerfile"
)

// A CacheEntry is a cache to import from.
type CacheEntry struct {
	Type  string
	Attrs map[string]string
}

// String is the cache as a user knows it. Attributes that may be secret are not shown.
func (e CacheEntry) String() string {
	for _, k := range []string{"ref", "dest", "src", "name", "scope"} {
		if v := e.Attrs[k]; v != "" {
			return fmt.Sprintf("%s (%s)", v, e.Type)
		}
	}
	return e.Type
}

// A Build is what the attributes ask for.
type Build struct {
	// Request lacks what is not among the attributes: Default is the caller's to set, as are Entitlements.
	Request frontend.Request
	Call    frontend.Call
	// Describe says that the list of calls is asked for, in place of a build.
	Describe bool
	// InputMetadata are the documents about inputs, by the name of the input.
	InputMetadata map[string]string
	// DockerfileForced says that the Dockerfile is the client's even if the context is not.
	DockerfileForced bool
	CacheImports     []CacheEntry
	// Warnings are what a user should know of attributes that mean less than was asked for.
	Warnings []solver.Warning
	// Attestations are the parameters of each kind that is asked for: "provenance", "sbom".
	Attestations map[string]map[string]string
}

// Parse reads attributes. An error is a *frontend.UsageError, or one of BuildKit's types for a frontend's capability or a
// subrequest that there is not.
func Parse(in map[string]string) (*Build, error) {
	if in["override-copy-image"] != "" {
		return nil, usage(`support for "override-copy-image" was removed in BuildKit 0.11`)
	}
	if err := checkCaps(in["frontend.caps"]); err != nil {
		return nil, err
	}
	b := &Build{
		InputMetadata: filter(in, prefixInput),
		Request: frontend.Request{
			Sessions: filter(in, prefixSession), SharedKeys: filter(in, prefixShared),
			BuildArgs: filter(in, prefixArg), Labels: filter(in, prefixLabel), Contexts: filter(in, prefixContext),
			Target: in["target"], CgroupParent: in["cgroup-parent"], Hostname: in["hostname"],
			Filename: in["filename"],
		},
	}
	for _, read := range []func(map[string]string) error{
		b.readPlatforms, b.readModes, b.readHosts, b.readLimits, b.readCaches, b.readAttestations, b.readSources, b.readCall,
	} {
		if err := read(in); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func usage(format string, args ...any) error {
	return &frontend.UsageError{Message: fmt.Sprintf(format, args...)}
}

// filter returns the values of keys with a prefix, by what follows it.
func filter(in map[string]string, prefix string) map[string]string {
	out := map[string]string{}
	for k, v := range in {
		if name, ok := strings.CutPrefix(k, prefix); ok {
			out[name] = v
		}
	}
	return out
}

func (b *Build) readPlatforms(in map[string]string) error {
	if v := in["platform"]; v != "" {
		for s := range strings.SplitSeq(v, ",") {
			p, err := platforms.Parse(s)
			if err != nil {
				return usage("failed to parse target platform %s: %v", s, err)
			}
			p = platforms.Normalize(p)
			same := func(q op.Platform) bool { return platforms.FormatAll(p) == platforms.FormatAll(q) }
			if slices.ContainsFunc(b.Request.Platforms, same) {
				b.Warnings = append(b.Warnings, solver.Warning{Short: fmt.Sprintf("Duplicate platform result requested %q", s)})
			}
			b.Request.Platforms = append(b.Request.Platforms, p)
		}
	}
	// The build argument goes before the attribute; the frontend reads it.
	if v := in["multi-platform"]; v != "" && in[prefixArg+"BUILDKIT_MULTI_PLATFORM"] == "" {
		multi, err := strconv.ParseBool(v)
		if err != nil {
			return usage("invalid boolean value for multi-platform: %s", v)
		}
		b.Request.Multi = &multi
	}
	return nil
}

// readModes reads what has one of a few values.
func (b *Build) readModes(in map[string]string) error {
	switch v := in["image-resolve-mode"]; v {
	case "", "default":
	case "local":
		b.Request.PreferLocal = true
	case "pull":
		b.Request.Pull = true
	default:
		return usage("invalid image-resolve-mode: %s", v)
	}
	switch v := in["force-network-mode"]; v {
	case "", "sandbox":
	case "none":
		b.Request.Network = op.NetworkNone
	case "host":
		b.Request.Network = op.NetworkHost
	default:
		return usage("invalid netmode %s", v)
	}
	if v, ok := in["no-cache"]; ok {
		if v == "" {
			b.Request.NoCache = true
		} else {
			b.Request.NoCacheStages = strings.Split(v, ",")
		}
	}
	return nil
}

// readSources sets where context and Dockerfile come from. Keys that name a key are BuildKit's: "contextkey" says which
// attribute has the address of the context, "dockerfilekey" which of the client's directories has the Dockerfile.
func (b *Build) readSources(in map[string]string) error {
	r := &b.Request
	key := localContext
	if v, ok := in["contextkey"]; ok {
		key = v
	}
	name := localDockerfile
	if v, ok := in["dockerfilekey"]; ok {
		name, b.DockerfileForced = v, true
	}
	dir := func(name string) *op.Local {
		return &op.Local{Name: name, SharedKey: name, Session: b.Request.Sessions[name]}
	}
	r.Context, r.Dockerfile = dir(localContext), dir(name)
	ref := in[key]
	if ref == "" {
		return nil
	}
	src, err := dockerfile.ContextSource(ref)
	if err != nil {
		return nil //nolint:nilerr // as with BuildKit, what is no address means nothing
	}
	r.Context, r.ContextSubdir = src, in["contextsubdir"]
	if !b.DockerfileForced {
		r.Dockerfile = src
	}
	return nil
}

// readCaches reads the caches to import from: as JSON, or as a list of references, which is older.
func (b *Build) readCaches(in map[string]string) error {
	if v := in["cache-imports"]; v != "" {
		var list []*controlapi.CacheOptionsEntry
		if err := json.Unmarshal([]byte(v), &list); err != nil {
			return usage("failed to unmarshal cache-imports (%q): %v", v, err)
		}
		for _, e := range list {
			if e != nil {
				b.CacheImports = append(b.CacheImports, CacheEntry{Type: e.Type, Attrs: e.Attrs})
			}
		}
	}
	if v := in["cache-from"]; v != "" {
		for ref := range strings.SplitSeq(v, ",") {
			b.CacheImports = append(b.CacheImports, CacheEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
		}
	}
	return nil
}

// attestationDefaults are the parameters that each kind of attestation has unless they are given.
var attestationDefaults = map[string]map[string]string{
	"sbom":       {"generator": "docker/buildkit-syft-scanner:stable-1"},
	"provenance": {"version": "v1"},
}

func (b *Build) readAttestations(in map[string]string) error {
	asked := filter(in, prefixAttArg)
	maps.Copy(asked, filter(in, prefixAttest))
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		kind, v := strings.ToLower(name), asked[name]
		params, ok := attestationDefaults[kind]
		if !ok {
			return usage("unknown attestation type %q", kind)
		}
		params = maps.Clone(params)
		list, err := fields(v)
		if err != nil {
			return usage("failed to parse %s: %v", kind, err)
		}
		for _, f := range list {
			k, val, _ := strings.Cut(f, "=")
			params[k] = val
		}
		if b.Attestations == nil {
			b.Attestations = map[string]map[string]string{}
		}
		b.Attestations[kind] = params
	}
	return nil
}
