package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// A Transfer moves images between registries and the store.
type Transfer interface {
	Pull(ctx context.Context, ref string, opt worker.TransferOptions) (*worker.PullResult, error)
	Push(ctx context.Context, ref string, opt worker.TransferOptions) (ocispec.Descriptor, error)
	Tags(ctx context.Context, repository string, opt worker.TransferOptions) ([]string, error)
	// Manifest makes an image of the store ready for export, with its manifest among docs if there is one; the lease in ctx
	// holds what it needs.
	Manifest(ctx context.Context, img *image.Image, docs ...image.Descriptor) (exporter.Manifest, error)
}

// A CacheMount is the directory of cache mounts of one ID.
type CacheMount struct {
	Name  string
	Size  int64     // bytes on the disk
	Used  time.Time // when it changed last
	InUse bool      // by a step
	// Description is for people; empty if nothing is known. Uses counts mounts.
	Description string
	Uses        int
}

// Mounts are the directories of cache mounts (RUN --mount=type=cache), which no record refers to.
type Mounts interface {
	CacheMounts(ctx context.Context) ([]CacheMount, error)
	// RemoveCacheMount reports false if the directory is in use, or gone.
	RemoveCacheMount(ctx context.Context, name string) (bool, error)
}

// A SourceCache is what sources keep beside the records: Git repositories, files that clients have sent. It counts, and
// is pruned, as a whole.
type SourceCache struct {
	Name, Description string
	Type              string    // of the record that stands for it: "source.local"
	Since             time.Time // when it has been made, at the latest
	Usage             func(ctx context.Context) (int64, error)
	// Prune removes what is not in use until at most limit bytes are left, as far as it can, and says how many it freed.
	Prune func(ctx context.Context, limit int64) (int64, error)
}

// Deps are what a Service works with.
type Deps struct {
	Layers   *Layers
	Leases   *lease.Manager
	Transfer Transfer
	Platform op.Platform // the daemon's own
	// Describe says what made a cache record, by its key; nil if nobody knows.
	Describe func(ctx context.Context, record string) string
	// Reserve is used while something is removed; it may be nil.
	Reserve *Reserve
	// Mounts are the directories of cache mounts; nil for none.
	Mounts Mounts
	// Sources are what sources keep beside the records.
	Sources []SourceCache
	// Users are the containers that use an image, those that run first; nil if there are none at all.
	Users func(id digest.Digest) []worker.ImageUser
}

// A Service is the images of a store. It is safe for concurrent use.
type Service struct {
	Transfer
	deps   Deps
	images *image.Store
}

var _ worker.Images = (*Service)(nil)

// New returns a Service.
func New(d Deps) *Service { return &Service{Transfer: d.Transfer, deps: d, images: d.Layers.Images} }

// translate gives errors of the store the worker's names.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, image.ErrNotFound):
		return &storeError{err, worker.ErrNotFound}
	case errors.Is(err, image.ErrAmbiguous):
		return &storeError{err, worker.ErrAmbiguous}
	}
	return err
}

// A storeError is an error of the store that is one of the worker's too.
type storeError struct{ err, is error }

func (e *storeError) Error() string { return e.err.Error() }

func (e *storeError) Unwrap() []error { return []error{e.err, e.is} }

// find finds an image: of a name for several platforms the daemon's own, if it is among them.
func (s *Service) find(ref string) (*image.Image, error) {
	img, err := s.images.Get(ref, &s.deps.Platform)
	if errors.Is(err, image.ErrNotFound) {
		img, err = s.images.Get(ref, nil)
	}
	return img, translate(err)
}

// findFor finds the image for p; of those for the daemon's own platform, or any, if p is nil.
func (s *Service) findFor(ref string, p *op.Platform) (*image.Image, error) {
	if p == nil {
		return s.find(ref)
	}
	img, err := s.images.Get(ref, p)
	if err == nil && runsOn(img.Platform, *p) {
		return img, nil
	}
	if err != nil && !errors.Is(err, image.ErrNotFound) {
		return nil, translate(err)
	}
	if _, err := s.find(ref); err != nil {
		return nil, err
	}
	return nil, &storeError{
		fmt.Errorf("image with reference %s was found but does not provide the specified platform (%s)", ref, platforms.Format(*p)),
		worker.ErrNotFound,
	}
}

// List implements worker.Images.
func (s *Service) List(context.Context) ([]worker.ImageSummary, error) {
	all, err := s.images.List()
	if err != nil {
		return nil, err
	}
	users := make(map[snapshot.ID]int)
	there := make(map[digest.Digest]bool, len(all))
	for _, img := range all {
		there[img.ID] = true
		for _, l := range img.Layers {
			users[l.Snapshot]++
		}
	}
	out := make([]worker.ImageSummary, 0, len(all))
	for _, img := range all {
		sum := s.summarise(img, configOf(img), users)
		if !there[sum.Parent] {
			sum.Parent = ""
		}
		out = append(out, sum)
	}
	return out, nil
}

// configOf reads an image's config. One that says nothing sensible was accepted by nobody, and is empty.
func configOf(img *image.Image) *frontend.ImageConfig {
	c := new(frontend.ImageConfig)
	if err := json.Unmarshal(img.Config, c); err != nil {
		return new(frontend.ImageConfig)
	}
	return c
}

// summarise describes an image, given how many images have each snapshot.
func (s *Service) summarise(img *image.Image, c *frontend.ImageConfig, users map[snapshot.ID]int) worker.ImageSummary {
	blobs := s.deps.Layers.Blobs
	sum := worker.ImageSummary{
		ID: img.ID, Names: img.Names, RepoDigests: img.RepoDigests(), Created: img.Created, Size: img.Size(),
		Labels: c.Config.Labels, Platform: img.Platform, Parent: img.Parent,
	}
	sum.NameDigests = make(map[string]digest.Digest, len(img.Served))
	for n, d := range img.Served {
		if !slices.Contains(sum.RepoDigests, repoOf(n)+"@"+string(d)) {
			d = "" // it was removed
		}
		sum.NameDigests[n] = d
	}
	sum.ConfigSize = int64(len(img.Config))
	sum.ContentSize = sum.ConfigSize
	for _, l := range img.Layers {
		if users[l.Snapshot] > 1 {
			sum.SharedSize += l.Files
		}
		for _, b := range l.Blobs {
			if blobs.Has(b) {
				sum.ContentSize += b.Size
			}
		}
	}
	for _, m := range img.Manifests {
		sum.ContentSize += m.Descriptor.Size
	}
	return sum
}

// Inspect implements worker.Images.
func (s *Service) Inspect(_ context.Context, ref string, p *op.Platform) (*worker.ImageDetail, error) {
	img, err := s.findFor(ref, p)
	if err != nil {
		return nil, err
	}
	all, err := s.images.List()
	if err != nil {
		return nil, err
	}
	users := make(map[snapshot.ID]int)
	for _, other := range all {
		for _, l := range other.Layers {
			users[l.Snapshot]++
		}
	}
	c := configOf(img)
	sum := s.summarise(img, c, users)
	if !slices.ContainsFunc(all, func(other *image.Image) bool { return other.ID == sum.Parent }) {
		sum.Parent = ""
	}
	if name, err := image.Normalize(ref); err == nil {
		sum.RepoDigests = digestsOf(name, &sum)
	}
	return &worker.ImageDetail{
		ImageSummary: sum, Config: *c, Raw: img.Config, Layers: img.DiffIDs(), LastTagged: img.Tagged,
	}, nil
}

// digestsOf returns the digests of an image that is called by a name: of the name's repository that of the name alone, if
// it is known which that is.
func digestsOf(name string, sum *worker.ImageSummary) []string {
	d, ok := sum.NameDigests[name]
	if !ok {
		return sum.RepoDigests
	}
	own := repoOf(name) + "@"
	return slices.DeleteFunc(slices.Clone(sum.RepoDigests), func(r string) bool {
		return strings.HasPrefix(r, own) && r != own+string(d)
	})
}

// History implements worker.Images.
func (s *Service) History(_ context.Context, ref string, p *op.Platform) ([]worker.HistoryEntry, error) {
	img, err := s.findFor(ref, p)
	if err != nil {
		return nil, err
	}
	var out []worker.HistoryEntry
	layer := 0
	for _, h := range configOf(img).History {
		e := worker.HistoryEntry{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			e.Created = *h.Created
		}
		if !h.EmptyLayer && layer < len(img.Layers) {
			e.Size = img.Layers[layer].Files
			layer++
		}
		out = append(out, e)
	}
	slices.Reverse(out)
	for i := range out { // a commit has one entry more than what it was made of
		out[i].ID, out[i].Tags = string(img.ID), img.Names
		if img.Parent == "" {
			break
		}
		if img, err = s.images.Get(string(img.Parent), nil); errors.Is(err, image.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, translate(err)
		}
	}
	return out, nil
}

// Tag implements worker.Images. A name for several platforms is copied with all of them, and a push of dst sends the
// manifests that one of src would send.
func (s *Service) Tag(_ context.Context, src, dst string) error {
	name, err := image.Normalize(dst)
	if err != nil {
		return err
	}
	img, err := s.find(src)
	if err != nil {
		return err
	}
	from, err := s.sourceOf(src, img)
	if err != nil {
		return err
	}
	if len(from.Images) > 1 || len(from.Blobs()) > 0 {
		u := image.Update{Names: []string{name}, Index: from.OwnIndex(), Documents: from.Manifests()}
		if repoOf(name) == repoOf(from.Ref) {
			u.Index, u.Documents, u.Served = from.Index, from.Documents, from.Served
		}
		for _, id := range from.Images {
			one, err := s.images.Get(string(id), nil)
			if err != nil {
				return translate(err)
			}
			u.Images = append(u.Images, one)
		}
		return s.images.Update(u)
	}
	return translate(s.images.Tag(img.ID, name))
}

// sourceOf returns what a reference to img means as a whole: a name, or what one would be.
func (s *Service) sourceOf(ref string, img *image.Image) (*image.Name, error) {
	if n, err := s.nameOf(ref); err == nil {
		return n, nil
	}
	names, err := s.namesWith(ref)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		return names[0], nil
	}
	return byDigest(ref, img), nil
}

// byDigest is what a name would be that was pulled as img by a reference with a digest; it has no documents if ref is no
// such reference.
func byDigest(ref string, img *image.Image) *image.Name {
	n := &image.Name{Ref: ref, Images: []digest.Digest{img.ID}}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return n
	}
	d, ok := named.(reference.Digested)
	if !ok {
		return n
	}
	for _, m := range img.Manifests {
		if m.Repository == named.Name() && m.Descriptor.Digest == d.Digest() {
			n.Served = &m.Descriptor
		}
	}
	return n
}

// nameOf returns what a reference with a tag, or without anything, points to.
func (s *Service) nameOf(ref string) (*image.Name, error) {
	c, err := image.Normalize(ref)
	if err != nil {
		return nil, err
	}
	return s.images.Name(c)
}

// sync makes images durable and stores them under names.
func (s *Service) store(ctx context.Context, u image.Update) error {
	if err := s.deps.Layers.Sync(ctx, u.Images...); err != nil {
		return err
	}
	return s.images.Update(u)
}

// repoOf returns the repository of a canonical reference.
func repoOf(ref string) string {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	return n.Name()
}
