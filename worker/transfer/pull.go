package transfer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/images"
)

// Pull pulls an image and puts it into the store under its name, and the digest it came by.
func (s *Service) Pull(ctx context.Context, name string, opt worker.TransferOptions) (*worker.PullResult, error) {
	ref, err := registry.ParseRef(name)
	if err != nil {
		return nil, err
	}
	if opt.Keychain != nil {
		ctx = registry.WithKeychain(ctx, opt.Keychain)
	}
	p := s.deps.Platform
	if opt.Platform != nil {
		p = *opt.Platform
	}
	l := s.deps.Leases.Acquire("pull " + ref.String())
	defer l.Release()
	ctx = lease.With(ctx, l)
	r, err := s.fetch(ctx, ref, p)
	if err != nil {
		return nil, err
	}
	before, err := s.deps.Images.Get(ref.String(), &p)
	if err != nil && !errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrAmbiguous) {
		return nil, err
	}
	// The only image there is may be for another platform than the one that was asked for, and is what the name stands for.
	id := digest.FromBytes(r.config)
	had := before != nil && before.ID == id
	if n, err := s.deps.Images.Name(ref.String()); err == nil && slices.Contains(n.Images, id) {
		had = true
	}
	status := opt.Progress
	if status == nil || had { // there is nothing to tell of
		status = func(solver.Status) {}
	}
	img, err := s.store(ctx, r, ref, true, status)
	if err != nil {
		return nil, err
	}
	d := r.manifest.Digest
	if len(r.indexes) > 0 {
		d = r.indexes[0].Digest
	}
	return &worker.PullResult{
		Name: ref.String(), Digest: digest.Digest(d.String()), ID: img.ID, Updated: !had,
	}, nil
}

// store brings an image of a registry into the store, and has ref name it if that has a tag and nothing else. A build,
// as opposed to a pull, leaves a name alone that means another image: it is the user's.
func (s *Service) store(ctx context.Context, r *remote, ref registry.Ref, move moves, status func(solver.Status)) (*image.Image, error) {
	layers, err := s.unpack(ctx, r, status)
	if err != nil {
		return nil, fmt.Errorf("pulling %s: %w", ref, err)
	}
	img := &image.Image{
		ID: digest.FromBytes(r.config), Config: r.config, Layers: layers,
		Platform: op.Platform{
			OS: r.image.OS, Architecture: r.image.Architecture, Variant: r.image.Variant,
			OSVersion: r.image.OSVersion, OSFeatures: r.image.OSFeatures,
		},
	}
	if r.image.Created != nil {
		img.Created = *r.image.Created
	}
	held := lease.From(ctx)
	for i, f := range append(slices.Clone(r.indexes), r.manifest) {
		if held != nil {
			if err := held.Reserve(ctx, lease.Item{Kind: lease.Blob, Name: f.Digest.String()}); err != nil {
				return nil, err
			}
		}
		desc, err := s.deps.Blobs.Put(string(f.MediaType), f.Bytes, false)
		if err != nil {
			return nil, err
		}
		img.Manifests = append(img.Manifests, image.Manifest{
			Repository: r.repo.String(), Descriptor: desc, Inner: i > 0,
		})
	}
	u, err := s.naming(r, img, ref, move)
	if err != nil {
		return nil, err
	}
	if err := s.deps.Layers.Sync(ctx, img); err != nil {
		return nil, err
	}
	return img, s.deps.Images.Update(*u)
}

// moves says whether a name may be taken from another image.
type moves bool

// naming is the update that stores img. Images for other platforms that the same index leads to keep the name, too.
func (s *Service) naming(r *remote, img *image.Image, ref registry.Ref, move moves) (*image.Update, error) {
	u := &image.Update{Images: []*image.Image{img}}
	if ref.Tag == "" || (ref.Digest != v1.Hash{}) {
		return u, nil // the tag beside a digest says nothing
	}
	name := ref.String()
	if r.tag == ref.Tag {
		u.Served = &img.Manifests[0].Descriptor
	}
	if len(r.indexes) > 0 {
		u.Index, u.Documents = &img.Manifests[0].Descriptor, []image.Descriptor{img.Manifests[len(r.indexes)].Descriptor}
	}
	n, err := s.deps.Images.Name(name)
	switch {
	case errors.Is(err, image.ErrNotFound):
		u.Names = []string{name}
		return u, nil
	case err != nil:
		return nil, err
	}
	same := u.Index != nil && n.Index != nil && n.Index.Digest == u.Index.Digest
	if same {
		u.Documents = merged(u.Documents, n.Documents)
	}
	replaces := false
	for _, id := range n.Images {
		other, err := s.deps.Images.Get(string(id), nil)
		if errors.Is(err, image.ErrNotFound) {
			continue // it has just been deleted
		}
		if err != nil {
			return nil, err
		}
		if runsOn(other.Platform, img.Platform) {
			replaces = true
		} else if same {
			u.Images = append(u.Images, other)
		}
	}
	if same || replaces || bool(move) {
		u.Names = []string{name}
	} else {
		u.Index, u.Documents, u.Served = nil, nil, nil
	}
	return u, nil
}

// merged returns all descriptors of a and b, each once.
func merged(a, b []image.Descriptor) []image.Descriptor {
	for _, d := range b {
		if !slices.ContainsFunc(a, func(o image.Descriptor) bool { return o.Digest == d.Digest }) {
			a = append(a, d)
		}
	}
	return a
}

// plain is a descriptor without what only its manifest means.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, URLs: d.URLs, Annotations: d.Annotations}
}

// unpack fetches the layers that the store lacks, all at once, and applies them in order as they arrive.
func (s *Service) unpack(ctx context.Context, r *remote, status func(solver.Status)) (_ []image.Layer, err error) {
	windows := r.image.OS == images.Windows
	have, err := s.deps.Layers.Have(ctx, r.diffIDs(), windows)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	f := &fetcher{ctx: ctx, s: s, repo: r.repo, status: &reporter{to: status}}
	defer func() {
		cancel(err)
		f.stop()
	}()
	// All are held from before they are there: Unpack comes to the last of them when the others are applied.
	if held := lease.From(ctx); held != nil {
		for _, desc := range r.layers {
			if err := held.Reserve(ctx, lease.Item{Kind: lease.Blob, Name: string(desc.Digest)}); err != nil {
				return nil, err
			}
		}
	}
	packed := make([]images.Packed, len(r.layers))
	for i, desc := range r.layers {
		l := f.layer(desc)
		packed[i] = images.Packed{
			DiffID: r.diffIDs()[i], Blob: plain(desc), Origin: r.repo.String(), Windows: windows, Fetch: l.fetch,
		}
		if i >= len(have) {
			l.start()
		}
	}
	there := make(map[string]bool) // layers whose tree the store has
	for _, desc := range r.layers[:len(have)] {
		there[string(desc.Digest)] = true
	}
	extracting := make(map[string]solver.Status)
	return s.deps.Layers.Unpack(ctx, packed, func(id string, read, total int64, done bool) {
		st, ok := extracting[id]
		if !ok {
			st = solver.Status{ID: id, Action: "extracting", Total: total, Started: time.Now()}
			if there[id] {
				st.Action = "exists"
			}
		}
		if st.Current = read; done {
			st.Current, st.Ended = total, time.Now()
		}
		extracting[id] = st
		f.status.report(st)
	})
}

// download brings a blob into the store.
func (s *Service) download(ctx context.Context, repo registry.Repo, desc ocispec.Descriptor, status func(solver.Status)) error {
	if s.deps.Blobs.Has(desc) {
		return nil
	}
	d, err := registry.FromOCI(desc)
	if err != nil {
		return err
	}
	w, err := s.deps.Blobs.Resume(ctx, desc)
	if errors.Is(err, blob.ErrExists) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	p := &downloadProgress{status: status, st: solver.Status{ID: string(desc.Digest), Action: "downloading", Total: desc.Size, Started: time.Now()}}
	p.report(w.Offset(), false)
	ctx = registry.WithTrace(ctx, &registry.Trace{Bytes: func(_ v1.Hash, done, _ int64) { p.report(done, false) }})
	for try := 0; ; try++ {
		resumed := w.Offset() > 0
		if err := s.deps.Client.FetchBlob(ctx, repo, d, w); err != nil {
			return elsewhere(desc, err)
		}
		_, err := w.Commit(desc)
		if err == nil {
			p.report(desc.Size, true)
			return nil
		}
		// What was there from an earlier try may have been what was wrong.
		if !errors.Is(err, blob.ErrDigest) || !resumed || try > 0 {
			return err
		}
		if err := w.Reset(); err != nil {
			return err
		}
	}
}

// A downloadProgress reports a download, not too often.
type downloadProgress struct {
	status func(solver.Status)

	mu   sync.Mutex // guards st and last, and the order of reports
	st   solver.Status
	last time.Time
}

func (p *downloadProgress) report(n int64, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := time.Now()
	if !done && t.Sub(p.last) < 100*time.Millisecond {
		return
	}
	p.last, p.st.Current = t, n
	if done {
		p.st.Ended = t
	}
	p.status(p.st)
}

// elsewhere adds to the answer that a registry has not got a blob where its manifest says it is: what old bases for Windows
// are made of. Addresses in manifests are not fetched.
func elsewhere(desc ocispec.Descriptor, err error) error {
	var answer *registry.StatusError
	if len(desc.URLs) == 0 || !errors.As(err, &answer) || answer.Status != http.StatusNotFound {
		return err
	}
	return fmt.Errorf("%w; the image says that the layer is at %.300q, and addresses in images are not fetched: use a newer base, or a copy that "+
		"has all layers (docker's `--allow-nondistributable-artifacts` pushes one)", err, desc.URLs[0])
}
