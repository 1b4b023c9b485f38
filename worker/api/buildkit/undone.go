package buildkit

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/attrs"
)

// undone adds a warning to the build for each thing that the request asks for and that this daemon does not do. What cannot
// be right whatever the daemon does is an error.
func (b *build) undone(req *worker.BuildRequest) error {
	exports, err := distinct(b.in.GetCache().GetExports())
	if err != nil {
		return err
	}
	said := map[string]bool{} // clients ask for some things twice, in the request and in the frontend's attributes
	warn := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if !said[text] {
			req.Warnings = append(req.Warnings, solver.Warning{Short: text})
		}
		said[text] = true
	}
	for _, e := range exports {
		warn("no cache was exported to %s: this daemon does not export caches", attrs.CacheEntry{Type: e.GetType(), Attrs: e.GetAttrs()})
	}
	for _, e := range b.in.GetCache().GetImports() {
		if e != nil {
			warn("no cache was imported from %s: this daemon uses its own cache only", attrs.CacheEntry{Type: e.GetType(), Attrs: e.GetAttrs()})
		}
	}
	if b.in.GetProxyNetwork() {
		return &frontend.UsageError{Message: "the request asks for a network with a proxy only, which this daemon does not have"}
	}
	parsed, err := attrs.Parse(b.in.GetFrontendAttrs())
	if err != nil || parsed.Call != frontend.Build || parsed.Describe {
		return nil //nolint:nilerr // which the frontend tells
	}
	for _, kind := range asked(parsed) {
		req.Missing = append(req.Missing, solver.Warning{
			Short: fmt.Sprintf("no %s attestation was made: this daemon does not make attestations", kind),
		})
	}
	for _, e := range parsed.CacheImports {
		warn("no cache was imported from %s: this daemon uses its own cache only", e)
	}
	return nil
}

// asked are the kinds of attestations that a request asks for.
func asked(in *attrs.Build) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(in.Attestations)), func(kind string) bool {
		return kind == "provenance" && in.Attestations[kind]["disabled"] == "true"
	})
}

// distinct refuses two exports to the same place. The cache inside the image is one however often it is asked for.
func distinct(in []*controlapi.CacheOptionsEntry) ([]*controlapi.CacheOptionsEntry, error) {
	var out []*controlapi.CacheOptionsEntry
	seen := map[string]bool{}
	var twice []string
	for _, e := range in {
		if e == nil {
			continue
		}
		key := e.GetType()
		switch ref := e.GetAttrs()["ref"]; {
		case e.GetType() == "inline":
			if seen[key] {
				continue
			}
		case e.GetType() == "registry" && ref != "":
			key = ref
		default:
			text, err := json.Marshal(e.GetAttrs())
			if err != nil {
				return nil, err
			}
			key += ":" + string(text)
		}
		if seen[key] {
			twice = append(twice, e.GetType())
		}
		seen[key] = true
		out = append(out, e)
	}
	if len(twice) > 0 {
		return nil, &frontend.UsageError{Message: fmt.Sprintf("duplicate cache exports [%s]", strings.Join(slices.Compact(twice), " "))}
	}
	return out, nil
}
