package dockerfile

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile/ignore"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A namedContext is a context that the user gave a name of a stage or an image, and which is used in its place.
type namedContext struct {
	name  string // with the platform, if it was given for one only
	value string // "docker-image://…", "local:…"
}

// namedContexts returns the contexts of a request by the names that are looked up: familiar, without ":latest".
func namedContexts(in map[string]string) map[string]string {
	out := make(map[string]string, len(in))
	for key, v := range in {
		name, platform, ok := strings.Cut(key, "::")
		if ref, err := reference.ParseNormalizedNamed(name); err == nil {
			name = familiar(ref)
		}
		if ok {
			name += "::" + platform
		}
		out[name] = v
	}
	return out
}

// contextNames returns the names of the named contexts, for suggestions.
func (t *translation) contextNames() []string {
	var names []string
	for key := range t.contexts {
		name, _, _ := strings.Cut(key, "::")
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func familiar(ref reference.Named) string {
	return strings.TrimSuffix(reference.FamiliarString(ref), ":latest")
}

// namedContext returns the context called name for a platform (nil means the target's), or nil. One for just this
// platform, "name::linux/amd64", goes before one for all.
func (t *translation) namedContext(name string, p *op.Platform) (*namedContext, error) {
	if len(t.contexts) == 0 || strings.EqualFold(name, scratch) || strings.EqualFold(name, "context") {
		return nil, nil
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("invalid context name %s: %w", name, err)
	}
	name = familiar(ref)
	if p == nil {
		p = &t.platform
	}
	for _, key := range []string{name + "::" + platforms.FormatAll(platforms.Normalize(*p)), name} {
		if v, ok := t.contexts[key]; ok {
			return &namedContext{name: key, value: v}, nil
		}
	}
	return nil, nil
}

// targetPrefix begins the value of a named context that is a stage of the same Dockerfile.
const targetPrefix = "target:"

// contextStage returns the stage, of those bound so far, that a named context called name is: it is given as
// "target:name" or "target:number". It is nil if there is no such context.
func (t *translation) contextStage(name string, p *op.Platform) (*stage, error) {
	nc, _ := t.namedContext(name, p) // what is wrong with a name, the lookup of an image says
	if nc == nil {
		return nil, nil
	}
	return t.targetOf(nc)
}

// targetOf returns the stage that a named context is; nil if it is something else.
func (t *translation) targetOf(nc *namedContext) (*stage, error) {
	target, ok := strings.CutPrefix(nc.value, targetPrefix)
	if !ok {
		return nil, nil
	}
	if s, ok := t.plan.stage(target); ok {
		return s, nil
	}
	return nil, noTarget(nc, target, t.plan.titles())
}

// noTarget is the error for a named context that is a stage which is not there.
func noTarget(nc *namedContext, target string, titles []string) error {
	err := fmt.Errorf("target stage %q for context %s could not be found", target, nc.name)
	return didYouMean(err, target, titles)
}

// loadNamed returns what a stage starts from that a named context replaces, or replaces the base of.
func (t *translation) loadNamed(ctx context.Context, nc *namedContext, p op.Platform) (*origin, error) {
	kind, rest, ok := strings.Cut(nc.value, ":")
	if !ok {
		return nil, fmt.Errorf("invalid context specifier %s for %s", nc.value, nc.name)
	}
	rest = strings.TrimPrefix(rest, "//")
	if strings.HasPrefix(kind, "git@") {
		kind = "git"
	}
	switch kind {
	case "docker-image":
		if rest == scratch {
			return &origin{}, nil
		}
		ref, err := reference.ParseNormalizedNamed(rest)
		if err != nil {
			return nil, fmt.Errorf("failed to parse stage name %q: %w", rest, err)
		}
		o, err := t.pinImage(ctx, ref, p, "[context "+nc.name+"]")
		if o != nil {
			o.label = "[context " + nc.name + "] " + rest
		}
		return o, err
	case "http", "https":
		if classify(nc.value) == urlSource {
			get := &op.HTTP{URL: nc.value, Filename: contextFile}
			return &origin{tree: &tree{src: get, label: "[context " + nc.name + "] " + nc.value}}, nil
		}
		return nc.loadGit()
	case "git":
		return nc.loadGit()
	case "oci-layout":
		return t.loadNamedLayout(ctx, nc, rest, p)
	case "local":
		return t.loadNamedLocal(ctx, nc, rest)
	case "input":
		return t.loadInput(nc, rest)
	}
	return nil, fmt.Errorf("unsupported context source %s for %s", kind, nc.name)
}

// loadNamedLocal returns a directory of the client's, which has a .dockerignore of its own.
func (t *translation) loadNamedLocal(ctx context.Context, nc *namedContext, name string) (*origin, error) {
	dir := op.Local{Name: name, SharedKey: "context:" + nc.name + "-" + t.req.SharedKeys[nc.name], Session: t.req.Sessions[name]}
	prefix := "[context " + nc.name + "] "
	text, err := readIgnore(ctx, t.env, &dir, prefix+"load "+ignoreName)
	if err != nil {
		return nil, err
	}
	patterns, err := ignore.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("failed parsing %s: %w", ignoreName, err)
	}
	return &origin{tree: &tree{src: &dir, ignore: patterns, label: prefix + "load from client"}}, nil
}

// loadNamedLayout returns an image in an OCI layout of the client's, "store@digest". The name of the layout matters to
// nobody but the client, so the image is called as the context is.
func (t *translation) loadNamedLayout(ctx context.Context, nc *namedContext, spec string, p op.Platform) (*origin, error) {
	ref, err := reference.Parse(spec)
	if err != nil {
		return nil, fmt.Errorf("could not parse oci-layout reference %q: %w", spec, err)
	}
	named, ok := ref.(reference.Named)
	if !ok {
		return nil, fmt.Errorf("oci-layout reference %q has no name", ref)
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return nil, fmt.Errorf("oci-layout reference %q has no digest", named)
	}
	d, err := frontend.ParseDigest(digested.Digest().String())
	if err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(nc.name, "::")
	shown, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("could not parse oci-layout reference %q: %w", name, err)
	}
	src := &op.OCILayout{Ref: reference.TagNameOnly(shown).String(), Digest: d, Store: named.Name(), Platform: p}
	prefix := "[context " + nc.name + "] "
	return t.shared.image("oci-layout "+spec+" "+nc.name+" "+op.PlatformString(p), func() (*origin, error) {
		o, err := t.loadImage(ctx, src, prefix+"load metadata for "+reference.TrimNamed(shown).String()+"@"+d.String())
		if o != nil {
			o.label = prefix + "OCI load from client"
		}
		return o, err
	})()
}
