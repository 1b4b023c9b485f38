package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/exporter/archive"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// Load implements worker.Images. Names in the archive replace those of the store, as with docker; they are the only thing
// that an archive can change of it. Manifests are not kept: an archive's word that a repository has one is no proof.
func (s *Service) Load(ctx context.Context, r io.Reader, opt worker.LoadOptions) ([]worker.Loaded, error) {
	l := s.deps.Leases.Acquire("load")
	defer l.Release()
	ctx = lease.With(ctx, l)
	found, err := archive.Read(ctx, r, archive.ReadOptions{
		Blobs: s.deps.Layers.Blobs, Limits: s.deps.Layers.Limits,
		Keep: func(ctx context.Context, d digest.Digest) error { return l.Reserve(ctx, blobItem(d)) },
	})
	if err != nil {
		return nil, fmt.Errorf("loading: %w", err)
	}
	var out []worker.Loaded
	for _, a := range found {
		u := image.Update{Names: a.Names}
		for _, m := range a.Manifests {
			if !anyOf(opt.Platforms, m.Platform) {
				continue
			}
			img, err := s.unpackArchived(ctx, m, opt.Progress)
			if err != nil {
				return out, fmt.Errorf("loading: %w", err)
			}
			u.Images = append(u.Images, img)
		}
		if len(u.Images) == 0 {
			continue
		}
		if err := s.store(ctx, u); err != nil {
			return out, fmt.Errorf("loading: %w", err)
		}
		if len(u.Names) == 0 {
			for _, img := range u.Images {
				out = append(out, worker.Loaded{ID: img.ID})
			}
		}
		for _, n := range u.Names {
			out = append(out, worker.Loaded{Name: image.Familiar(n), ID: u.Images[0].ID})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("loading: the archive has no image for that platform: %w", worker.ErrNotFound)
	}
	return out, nil
}

// anyOf says whether p is one of those wanted; without any, every one is.
func anyOf(wanted []op.Platform, p op.Platform) bool {
	return len(wanted) == 0 || slices.ContainsFunc(wanted, func(w op.Platform) bool { return runsOn(p, w) })
}

func runsOn(have, want op.Platform) bool {
	return have.OS == want.OS && have.Architecture == want.Architecture && (want.Variant == "" || have.Variant == want.Variant)
}

// unpackArchived makes the snapshots of an archive's image.
func (s *Service) unpackArchived(ctx context.Context, m archive.Manifest, status func(solver.Status)) (*image.Image, error) {
	packed := make([]Packed, len(m.Layers))
	for i, l := range m.Layers {
		packed[i] = Packed{DiffID: l.DiffID, Blob: l.Blob, Windows: m.Platform.OS == Windows}
	}
	layers, err := s.deps.Layers.Unpack(ctx, packed, statusProgress("extracting", status))
	if err != nil {
		return nil, err
	}
	img := &image.Image{ID: digest.FromBytes(m.Config), Config: m.Config, Platform: m.Platform, Layers: layers}
	if c := configOf(img); c.Created != nil {
		img.Created = *c.Created
	}
	return img, nil
}

// statusProgress reports the progress of parts as statuses.
func statusProgress(action string, status func(solver.Status)) exporter.Progress {
	if status == nil {
		return nil
	}
	started := make(map[string]time.Time)
	return func(id string, current, total int64, done bool) {
		if started[id].IsZero() {
			started[id] = time.Now()
		}
		st := solver.Status{ID: id, Action: action, Current: current, Total: total, Started: started[id]}
		if done {
			st.Ended = time.Now()
		}
		status(st)
	}
}

// Save implements worker.Images: an archive that `docker load` reads, and that is an OCI layout too. As with docker a
// repository without a tag stands for all its tags, and an ID has no name in the archive.
func (s *Service) Save(ctx context.Context, refs []string, wanted []op.Platform, w io.Writer) error {
	l := s.deps.Leases.Acquire("save")
	defer l.Release()
	ctx = lease.With(ctx, l)
	var imgs []*exporter.Image
	same := make(map[string]*exporter.Image) // by the IDs of the images and their manifests
	for _, ref := range refs {
		all, err := s.wanted(ref, wanted)
		if err != nil {
			return fmt.Errorf("saving %s: %w", ref, err)
		}
		for _, n := range all {
			out := same[n.key()]
			if out == nil {
				out = new(exporter.Image)
				for _, img := range n.imgs {
					m, err := s.Manifest(ctx, img, n.docs...)
					if err != nil {
						return fmt.Errorf("saving %s: %w", ref, err)
					}
					out.Manifests = append(out.Manifests, m)
				}
				same[n.key()] = out
				imgs = append(imgs, out)
			}
			if n.name != "" {
				out.Names = append(out.Names, n.name)
			}
		}
	}
	if len(imgs) == 0 {
		return errors.New("saving: no image was named")
	}
	_, err := archive.Write(ctx, w, archive.Options{
		Docker: true, Prefer: &s.deps.Platform, Form: exporter.Form{Compression: exporter.Uncompressed},
	}, imgs...)
	return err
}

// A wantedImage is what to save under a name, or none: the images for one platform or more.
type wantedImage struct {
	imgs []*image.Image
	name string
	docs []image.Descriptor // manifests that are the name's own
}

func (w *wantedImage) key() string {
	var ids []string
	for _, img := range w.imgs {
		ids = append(ids, string(img.ID))
	}
	for _, d := range w.docs {
		ids = append(ids, string(d.Digest))
	}
	return strings.Join(ids, " ")
}

func (s *Service) wanted(ref string, platforms []op.Platform) ([]wantedImage, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err == nil && reference.IsNameOnly(named) {
		names, err := s.images.Names()
		if err != nil {
			return nil, err
		}
		var out []wantedImage
		for _, n := range names {
			if repoOf(n.Ref) != named.Name() {
				continue
			}
			w, err := s.wantedName(n.Ref, platforms)
			if err != nil {
				return nil, err
			}
			out = append(out, *w)
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	img, ferr := s.find(ref)
	if ferr != nil {
		return nil, ferr
	}
	// An ID can be read as a name, too: "sha256" with a tag.
	if t, ok := named.(reference.NamedTagged); err == nil && ok && slices.Contains(img.Names, t.String()) {
		w, err := s.wantedName(t.String(), platforms)
		if err != nil {
			return nil, err
		}
		return []wantedImage{*w}, nil
	}
	if names, err := s.namesWith(ref); err != nil {
		return nil, err
	} else if len(names) > 0 {
		w, err := s.wantedOf(names[0], ref, platforms)
		if err != nil {
			return nil, err
		}
		return []wantedImage{*w}, nil
	}
	for _, p := range platforms {
		if _, err := s.findFor(ref, &p); err != nil {
			return nil, err
		}
	}
	return []wantedImage{{imgs: []*image.Image{img}, docs: byDigest(ref, img).Manifests()}}, nil
}

// wantedName returns the images that a name has, for those platforms or for all that are there.
func (s *Service) wantedName(name string, platforms []op.Platform) (*wantedImage, error) {
	n, err := s.images.Name(name)
	if err != nil {
		return nil, translate(err)
	}
	out, err := s.wantedOf(n, name, platforms)
	if err != nil {
		return nil, err
	}
	out.name = name
	return out, nil
}

// wantedOf is wantedName for what n points to, which ref means.
func (s *Service) wantedOf(n *image.Name, ref string, platforms []op.Platform) (*wantedImage, error) {
	out := &wantedImage{docs: n.Manifests()}
	for _, p := range platforms {
		img, err := s.findFor(ref, &p)
		if err != nil {
			return nil, err
		}
		out.imgs = append(out.imgs, img)
	}
	if len(platforms) > 0 {
		return out, nil
	}
	for _, id := range n.Images {
		img, err := s.images.Get(string(id), nil)
		if err != nil {
			return nil, translate(err)
		}
		out.imgs = append(out.imgs, img)
	}
	return out, nil
}

// finish completes the config of an image that was made here.
func finish(config any, layers []image.Layer) (*image.Image, error) {
	b, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	img := &image.Image{ID: digest.FromBytes(b), Config: b, Layers: layers}
	var c ocispec.Image
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	img.Platform = c.Platform
	if c.Created != nil {
		img.Created = *c.Created
	}
	return img, nil
}
