// Package transfer moves images between registries and the store: it pins the images that a build starts from, pulls
// them, and pushes what is in the store.
//
// What a reference means is decided once, by Resolve, and named by a digest from then on: of the manifest for the
// platform, or of the image's configuration where no registry is known to have it. What a digest leads to never
// changes, so it is remembered.
//
// A digest counts only in the repository that is known to have it. That the store has the same bytes under another
// name is no reason to believe that the registry asked for would serve them; layers, which a manifest of that
// repository names, are shared by digest.
//
// An image that a build pulls is put into the store under its name, as docker's classic builder does: the next build
// then needs no network. --pull asks the registry again. Builds of clients that expect otherwise (op.ResolveRegistry) ask
// what a tag means each time, by HEAD, and leave layers behind that are part of the build cache and of no image.
package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/images"
)

// maxConfig is how large the configuration of an image may be, in bytes.
const maxConfig = 8 << 20

// Deps are what a Service works with.
type Deps struct {
	Client   *registry.Client
	Images   *image.Store
	Blobs    *blob.Store
	Layers   *images.Layers
	Leases   *lease.Manager
	Platform op.Platform // the daemon's own
}

// A Service moves images. It is safe for concurrent use.
type Service struct {
	deps Deps

	mu    sync.Mutex // guards what follows
	known map[knownKey]*remote
	local map[digest.Digest]*image.Image // images that no registry has, by ID
}

// New returns a Service.
func New(deps Deps) *Service {
	return &Service{deps: deps, known: make(map[knownKey]*remote), local: make(map[digest.Digest]*image.Image)}
}

// A knownKey names an image of a registry, as it is there for some user: what was shown to one is not shown to another.
type knownKey struct {
	repo   string
	tag    string // what led to it: two tags may come to the same manifest by different indexes; "" for any
	digest digest.Digest
	who    registry.Identity
}

func (s *Service) knownKey(ctx context.Context, repo registry.Repo, tag string, d digest.Digest) knownKey {
	return knownKey{repo.String(), tag, d, s.deps.Client.Identity(ctx, repo)}
}

// platformKey is a platform as part of a knownKey.
func platformKey(p op.Platform) string {
	return strings.Join(append([]string{op.PlatformString(p), p.OSVersion}, p.OSFeatures...), " ")
}

// maxKnown bounds how many images of registries are remembered, each by up to three keys.
const maxKnown = 3 * 64

// A remote is an image as a registry has it.
type remote struct {
	repo     registry.Repo
	tag      string // that it was asked for by; "" if it was by digest
	manifest registry.Fetched
	indexes  []registry.Fetched
	config   []byte
	image    ocispec.Image
	layers   []ocispec.Descriptor
}

func (r *remote) diffIDs() []digest.Digest { return r.image.RootFS.DiffIDs }

// Resolve pins an image: it returns img with the digest of what its reference means now, for its platform.
func (s *Service) Resolve(ctx context.Context, img *op.Image) (*op.Image, error) {
	ref, err := reference(img)
	if err != nil {
		return nil, err
	}
	p := img.Platform
	if p.OS == "" {
		p = s.deps.Platform
	}
	pinned := *img
	pinned.Tagged = img.Digest == ""
	if have, err := s.byID(ctx, img.Digest, ref.Repo); err != nil {
		return nil, err
	} else if have != nil {
		s.rememberLocal(have)
		return &pinned, nil
	}
	var have *image.Image
	if img.Resolve != op.ResolveForcePull && img.Checksum == "" {
		if have, err = s.stored(ctx, ref, &p); err != nil {
			return nil, err
		}
		if have != nil && (img.Resolve != op.ResolveRegistry || !s.served(ref)) {
			return s.pinTo(&pinned, have, ref.Repo), nil
		}
	}
	r, err := s.fetch(ctx, ref, p)
	if err != nil && have != nil && unreachable(ctx, err) {
		return s.pinTo(&pinned, have, ref.Repo), nil
	}
	if err != nil {
		return nil, err
	}
	if got := r.root(); img.Checksum != "" && got != img.Checksum {
		return nil, fmt.Errorf("image digest %s for %s does not match expected checksum %s", got, img.Ref, img.Checksum)
	}
	pinned.Digest = digest.Digest(r.manifest.Digest.String())
	return &pinned, nil
}

// pinTo pins img to an image of the store.
func (s *Service) pinTo(img *op.Image, have *image.Image, repo registry.Repo) *op.Image {
	if img.Digest = storedDigest(have, repo); img.Digest == have.ID {
		s.rememberLocal(have)
	}
	return img
}

// served says whether a name of the store is one that a registry has had, so that it may mean another image there by now.
func (s *Service) served(ref registry.Ref) bool {
	if (ref.Digest != v1.Hash{}) {
		return false
	}
	n, err := s.deps.Images.Name(ref.String())
	return err == nil && n.Served != nil
}

// unreachable says whether err is that no registry answers, and not what one answers.
func unreachable(ctx context.Context, err error) bool {
	var answer *registry.StatusError
	var none *registry.PlatformError
	return ctx.Err() == nil && !errors.As(err, &none) && (!errors.As(err, &answer) || answer.Status >= 500)
}

// root returns the digest of what the reference means: of an index, or else of the manifest.
func (r *remote) root() digest.Digest {
	if len(r.indexes) > 0 {
		return digest.Digest(r.indexes[0].Digest.String())
	}
	return digest.Digest(r.manifest.Digest.String())
}

func reference(img *op.Image) (registry.Ref, error) {
	ref, err := registry.ParseRef(img.Ref)
	if err != nil {
		return registry.Ref{}, err
	}
	if img.Digest != "" {
		if ref.Digest, err = registry.ParseDigest(string(img.Digest)); err != nil {
			return registry.Ref{}, err
		}
	}
	return ref, nil
}

// stored finds an image in the store, or returns nil. One whose snapshots are gone does not count.
func (s *Service) stored(ctx context.Context, ref registry.Ref, p *op.Platform) (*image.Image, error) {
	name := ref.String()
	if (ref.Digest != v1.Hash{}) {
		name = ref.Repo.At(ref.Digest).String() // the tag beside a digest says nothing
	}
	img, err := s.deps.Images.Get(name, p)
	switch {
	case errors.Is(err, image.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case !runsOn(img.Platform, *p):
		return nil, nil
	}
	return held(ctx, img)
}

// held returns img with its snapshots held by the lease in ctx, or nil if they are gone.
func held(ctx context.Context, img *image.Image) (*image.Image, error) {
	if l := lease.From(ctx); l != nil && len(img.Layers) > 0 {
		if err := l.Hold(ctx, lease.ID(img.Layers[len(img.Layers)-1].Snapshot)); err != nil {
			if errors.Is(err, snapshot.ErrNotFound) {
				return nil, nil
			}
			return nil, err
		}
	}
	return img, nil
}

// byID finds an image of the store by its ID, which is what an image that no registry has is pinned to, if it has a name in
// the repository. Who was told the ID asks for it again.
func (s *Service) byID(ctx context.Context, id digest.Digest, repo registry.Repo) (*image.Image, error) {
	if id == "" {
		return nil, nil
	}
	img, err := s.deps.Images.Get(string(id), nil)
	if errors.Is(err, image.ErrNotFound) || err == nil && img.ID != id {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, n := range img.Names {
		if ref, err := registry.ParseRef(n); err == nil && ref.Repo == repo {
			return held(ctx, img)
		}
	}
	return nil, nil
}

// runsOn says whether an image for have serves a build for want.
func runsOn(have, want op.Platform) bool {
	return (have.OS == "" || have.OS == want.OS) && (have.Architecture == "" || have.Architecture == want.Architecture) &&
		(want.Variant == "" || have.Variant == "" || have.Variant == want.Variant)
}

// storedDigest returns the digest by which an image of the store is pinned: the manifest's where the repository is known
// to have one, so that it is the same as when the image was pulled.
func storedDigest(img *image.Image, repo registry.Repo) digest.Digest {
	for _, m := range img.Manifests {
		if m.Repository == repo.String() && !image.IsIndex(m.Descriptor.MediaType) {
			return m.Descriptor.Digest
		}
	}
	return img.ID
}

// fetch reads manifest and configuration of what ref means at its registry.
func (s *Service) fetch(ctx context.Context, ref registry.Ref, p op.Platform) (*remote, error) {
	desc, err := s.deps.Client.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	root := s.knownKey(ctx, ref.Repo, "@"+platformKey(p), digest.Digest(desc.Digest.String()))
	if have := s.remembered(root); have != nil { // nothing is left to ask for
		r := *have
		if r.tag = ""; ref.Digest == (v1.Hash{}) {
			r.tag = ref.Tag
		}
		s.remember(s.knownKey(ctx, ref.Repo, r.tag, digest.Digest(r.manifest.Digest.String())), &r)
		return &r, nil
	}
	sel, err := s.deps.Client.Select(ctx, ref.Repo, desc, v1.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
	})
	if err != nil {
		return nil, err
	}
	r := &remote{repo: ref.Repo, manifest: sel.Fetched, indexes: sel.Indexes}
	if (ref.Digest == v1.Hash{}) {
		r.tag = ref.Tag
	}
	d := digest.Digest(sel.Digest.String())
	whole, tagged := s.knownKey(ctx, ref.Repo, "", d), s.knownKey(ctx, ref.Repo, r.tag, d)
	if have := s.remembered(whole); have != nil {
		r.config, r.image, r.layers = have.config, have.image, have.layers
		s.remember(tagged, r)
		s.remember(root, r)
		return r, nil
	}
	if r.config, err = s.deps.Client.ReadBlob(ctx, ref.Repo, sel.Manifest.Config, maxConfig); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(r.config, &r.image); err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", ref, err)
	}
	for _, l := range sel.Manifest.Layers {
		r.layers = append(r.layers, registry.ToOCI(l))
	}
	if len(r.layers) != len(r.diffIDs()) {
		return nil, fmt.Errorf("reading %s: its manifest has %d layers and its configuration %d", ref, len(r.layers), len(r.diffIDs()))
	}
	for _, d := range r.diffIDs() {
		if err := blob.Validate(d); err != nil {
			return nil, fmt.Errorf("reading the configuration of %s: %w", ref, err)
		}
	}
	s.remember(whole, r)
	s.remember(tagged, r)
	s.remember(root, r)
	return r, nil
}

// remembered returns what was remembered under key, or nil.
func (s *Service) remembered(key knownKey) *remote {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[key]
}

// remember stores r under key.
func (s *Service) remember(key knownKey, r *remote) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnown {
		clear(s.known) // asking again is cheap
	}
	s.known[key] = r
}

// rememberLocal remembers an image that a build was pinned to. No registry has it, so if it is deleted while the build
// goes on there is no other way to find it again.
func (s *Service) rememberLocal(img *image.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.local) >= maxKnown {
		clear(s.local)
	}
	s.local[img.ID] = img
}

// rememberedLocal returns such an image if the build has kept its layers from being collected.
func (s *Service) rememberedLocal(ctx context.Context, id digest.Digest) *image.Image {
	s.mu.Lock()
	img := s.local[id]
	s.mu.Unlock()
	if img == nil || len(img.Layers) == 0 {
		return img
	}
	if l := lease.From(ctx); l == nil || l.Hold(ctx, lease.ID(img.Layers[len(img.Layers)-1].Snapshot)) != nil {
		return nil
	}
	return img
}

// find returns what a pinned image is: an image of the store, or of a registry.
func (s *Service) find(ctx context.Context, img *op.Image) (*image.Image, *remote, error) {
	ref, err := reference(img)
	if err != nil {
		return nil, nil, err
	}
	p := img.Platform
	if p.OS == "" {
		p = s.deps.Platform
	}
	have, err := s.deps.Images.Get(string(img.Digest), nil)
	if err == nil && have.ID == img.Digest {
		return have, nil, nil
	}
	if have, err := s.stored(ctx, ref, &p); have != nil || err != nil {
		return have, nil, err
	}
	if have := s.rememberedLocal(ctx, img.Digest); have != nil {
		return have, nil, nil
	}
	for _, tag := range []string{ref.Tag, ""} {
		if r := s.remembered(s.knownKey(ctx, ref.Repo, tag, img.Digest)); r != nil {
			return nil, r, nil
		}
	}
	r, err := s.fetch(ctx, ref, p)
	return nil, r, err
}

// Config returns the configuration of a pinned image, as it is stored.
func (s *Service) Config(ctx context.Context, img *op.Image) ([]byte, error) {
	have, r, err := s.find(ctx, img)
	switch {
	case err != nil:
		return nil, err
	case have != nil:
		return have.Config, nil
	}
	return r.config, nil
}

// Root implements run.Images.
func (s *Service) Root(ctx context.Context, img *op.Image, status func(solver.Status)) (snapshot.ID, error) {
	have, r, err := s.find(ctx, img)
	if err != nil {
		return "", err
	}
	if have != nil {
		switch ok, err := s.deps.Layers.Usable(ctx, have); {
		case err != nil:
			return "", err
		case !ok:
			return "", fmt.Errorf("%s: its layers were unpacked by a version that knew none of Windows; pull or load it again", img.Ref)
		}
	} else {
		ref, err := reference(img)
		if err != nil {
			return "", err
		}
		if img.Unnamed {
			layers, err := s.unpack(ctx, r, status)
			if err != nil {
				return "", fmt.Errorf("pulling %s: %w", ref, err)
			}
			return top(ctx, img, layers)
		}
		if img.Tagged {
			ref.Digest = v1.Hash{}
		}
		if have, err = s.store(ctx, r, ref, img.Resolve == op.ResolveForcePull, status); err != nil {
			return "", err
		}
	}
	return top(ctx, img, have.Layers)
}

// top returns the snapshot of an image that has these layers, held by the lease in ctx; "" if it has no files.
func top(ctx context.Context, img *op.Image, layers []image.Layer) (snapshot.ID, error) {
	n := len(layers)
	if img.LayerLimit > 0 {
		n = min(n, img.LayerLimit)
	}
	if n == 0 {
		return "", nil
	}
	id := layers[n-1].Snapshot
	if l := lease.From(ctx); l != nil {
		if err := l.Hold(ctx, lease.ID(id)); err != nil {
			return "", fmt.Errorf("%s: its layers are gone from the store; pull it again: %w", img.Ref, err)
		}
	}
	return id, nil
}
