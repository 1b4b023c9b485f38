package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile/lint"
	"github.com/boxbuild/boxbuild/solver/op"
)

// An origin is what a stage without a parent starts from: an image, a tree, or nothing.
type origin struct {
	image  *op.Image             // pinned; nil for one without layers
	digest digest.Digest         // of the image
	tree   *tree                 // a named context that is a directory
	config *frontend.ImageConfig // of image; shared, never changed
	ref    string                // of the image, which a source policy may have chosen
	name   string                // the image with its digest, as vertices are called
	label  string                // the name of the vertex, if it is not "FROM …"
}

// resolve is the third pass. It pins the bases of all stages that the target needs, at once, and puts the ONBUILD
// triggers of each base before the instructions of the stage. Triggers may read from stages and images that nothing
// needed before, so it goes on until there is nothing new.
func (t *translation) resolve(ctx context.Context) (map[*stage]bool, error) {
	if err := t.checkNames(); err != nil {
		return nil, err
	}
	for {
		needed := t.needed()
		if err := t.resolveOrigins(ctx, t.outside(needed), t.needsContext(needed)); err != nil {
			return nil, err
		}
		more := false
		for _, s := range t.plan.stages {
			if !needed[s] || s.inherits || s.override != nil {
				continue
			}
			s.inherits = true
			news, err := t.inherit(s)
			if err != nil {
				return nil, err
			}
			more = more || news
		}
		if !more {
			return needed, nil
		}
	}
}

// needed returns the stages to work through.
func (t *translation) needed() map[*stage]bool {
	needed := t.plan.target.reachable()
	if t.all {
		for _, s := range t.plan.stages {
			if !needed[s] {
				maps.Copy(needed, s.reachable())
			}
		}
	}
	return needed
}

// checkNames refuses names that cannot be those of images, in stages that are not needed too.
func (t *translation) checkNames() error {
	check := func(s *stage) error {
		if s.parent != nil || s.src.BaseName == scratch {
			return nil
		}
		if _, err := reference.ParseNormalizedNamed(s.src.BaseName); err != nil {
			err = fmt.Errorf("failed to parse stage name %q: %w", s.src.BaseName, err)
			return at(didYouMean(err, s.src.BaseName, t.contextNames()), s.src.Location)
		}
		return nil
	}
	for _, s := range t.plan.stages {
		if err := check(s); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.plan.aliases)) {
		if err := check(t.plan.aliases[name]); err != nil {
			return err
		}
	}
	return nil
}

// resolveOrigins finds the origins of the stages that have none yet. With reads, .dockerignore is read in the meantime: its
// turn is after the images, whose errors come first, as their steps do, but it need not wait for them.
func (t *translation) resolveOrigins(ctx context.Context, stages []*stage, reads bool) error {
	g, ctx := together(ctx)
	var asked sync.WaitGroup
	for _, s := range stages {
		if s.origin != nil {
			continue
		}
		asked.Add(1)
		began := sync.OnceFunc(asked.Done)
		find, err := t.originOf(withBegan(ctx, began), s)
		if err != nil {
			return at(err, s.src.Location)
		}
		g.Go(func() (err error) {
			defer began()
			if s.origin, err = find(); err != nil {
				return at(err, s.src.Location)
			}
			return nil
		})
	}
	if reads {
		g.Go(func() error {
			asked.Wait()
			_, err := t.src.ignored()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, s := range stages {
		if o := s.origin; o.config != nil && o.image != nil && s.override == nil {
			l := t.doc.lint.WithMergedConfigFromComments(s.src.Comments)
			lint.BasePlatform(s.src.BaseName, t.platformOf(s), o.config.Platform, s.src.Location, l)
		}
	}
	return nil
}

// beganKey is what a context has under it that wants to know when the step that looks for an image begins.
type beganKey struct{}

func withBegan(ctx context.Context, f func()) context.Context {
	return context.WithValue(ctx, beganKey{}, f)
}

// began tells that the step has begun.
func began(ctx context.Context) {
	if f, ok := ctx.Value(beganKey{}).(func()); ok {
		f()
	}
}

// platformOf returns the platform that a stage without a parent is for.
func (t *translation) platformOf(s *stage) op.Platform {
	if s.platform != nil {
		return *s.platform
	}
	return t.platform
}

// originOf returns a function that finds the origin of s. Stages that start from the same image share one answer.
func (t *translation) originOf(ctx context.Context, s *stage) (func() (*origin, error), error) {
	p := t.platformOf(s)
	if s.override != nil {
		return func() (*origin, error) { return t.loadNamed(ctx, s.override, p) }, nil
	}
	if s.src.BaseName == scratch {
		return func() (*origin, error) { return &origin{}, nil }, nil
	}
	ref, err := reference.ParseNormalizedNamed(s.src.BaseName)
	if err != nil {
		return nil, fmt.Errorf("failed to parse stage name %q: %w", s.src.BaseName, err)
	}
	ref = reference.TagNameOnly(ref)
	nc, err := t.namedContext(ref.String(), &p)
	if err != nil {
		return nil, err
	}
	if nc != nil {
		return func() (*origin, error) { return t.loadNamed(ctx, nc, p) }, nil
	}
	key := ref.String() + " " + op.PlatformString(p)
	return t.shared.image(key, func() (*origin, error) {
		prefix := "[internal]"
		if t.multi {
			prefix = "[" + op.PlatformString(p) + " internal]"
		}
		o, err := t.pinImage(ctx, ref, p, prefix)
		if err != nil && !errors.Is(err, context.Canceled) {
			names := slices.Concat(t.plan.titles(), t.contextNames(), commonImages())
			err = didYouMean(fmt.Errorf("%s: %w", s.src.BaseName, err), s.src.BaseName, names)
		}
		return o, err
	}), nil
}

// pinImage pins an image and reads its configuration, as one step. The prefix is that of the step's name.
func (t *translation) pinImage(ctx context.Context, ref reference.Named, p op.Platform, prefix string) (*origin, error) {
	ref = reference.TagNameOnly(ref)
	img := &op.Image{Ref: ref.String(), Platform: p}
	digested, hasDigest := ref.(reference.Digested)
	if hasDigest {
		d, err := frontend.ParseDigest(digested.Digest().String())
		if err != nil {
			return nil, err
		}
		img.Digest = d
		img.Ref = reference.TrimNamed(ref).String()
		if tagged, ok := ref.(reference.Tagged); ok {
			img.Ref += ":" + tagged.Tag()
		}
	}
	if t.req.Pull {
		img.Resolve = op.ResolveForcePull
	} else if t.req.PreferLocal {
		img.Resolve = op.ResolvePreferLocal
	}
	o, err := t.loadImage(ctx, img, prefix+" load metadata for "+ref.String())
	if err != nil {
		return nil, err
	}
	o.name = ref.String()
	if converted := o.ref != img.Ref; converted {
		o.name = o.ref + "@" + o.digest.String()
	} else if !hasDigest {
		o.name += "@" + o.digest.String()
	}
	return o, nil
}

// loadImage pins what is an image and reads its configuration, as one step of that name.
func (t *translation) loadImage(ctx context.Context, src op.Source, step string) (*origin, error) {
	o := &origin{}
	err := frontend.AskStep(ctx, t.env, step, src, func(ctx context.Context) error {
		began(ctx)
		if img, ok := src.(*op.Image); ok && img.Digest == "" {
			if r, ok := t.env.(frontend.Resolver); ok {
				return o.resolve(ctx, r, img)
			}
		}
		found, err := t.env.Pin(ctx, src)
		if err != nil {
			return err
		}
		pinned, ok := found.(*op.Image)
		if !ok {
			return fmt.Errorf("%s is not an image", src)
		}
		o.image, o.ref, o.digest = pinned, pinned.Ref, pinned.Digest
		o.config, err = t.env.ImageConfig(ctx, pinned)
		return err
	})
	if err != nil {
		return nil, err
	}
	if isEmpty(o.config) {
		o.image = nil
	}
	return o, nil
}

// resolve is what an image with a tag turns out to be. It is called by the digest that users know: the index's, if it has one.
func (o *origin) resolve(ctx context.Context, r frontend.Resolver, img *op.Image) error {
	m, err := r.ResolveImage(ctx, img)
	if err != nil {
		return err
	}
	o.image, o.ref, o.digest, o.config = m.Pinned, m.Pinned.Ref, m.Digest, &frontend.ImageConfig{}
	if err := json.Unmarshal(m.Config, o.config); err != nil {
		return fmt.Errorf("reading the configuration of %s: %w", img.Ref, err)
	}
	return nil
}

// isEmpty says whether an image has no layers. Old images name them in the history only.
func isEmpty(c *frontend.ImageConfig) bool {
	if len(c.RootFS.DiffIDs) > 0 {
		return false
	}
	return !slices.ContainsFunc(c.History, func(h history) bool { return !h.EmptyLayer })
}
