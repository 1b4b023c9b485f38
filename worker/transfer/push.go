package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	imagedoc "github.com/boxbuild/boxbuild/exporter/image"
	push "github.com/boxbuild/boxbuild/exporter/registry"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// Push pushes an image of the store under its name. What was pulled, pushed or made under the name is pushed byte for byte.
func (s *Service) Push(ctx context.Context, name string, opt worker.TransferOptions) (ocispec.Descriptor, error) {
	ref, err := image.Normalize(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if opt.Keychain != nil {
		ctx = registry.WithKeychain(ctx, opt.Keychain)
	}
	l := s.deps.Leases.Acquire("push " + ref)
	defer l.Release()
	ctx = lease.With(ctx, l)
	n, err := s.deps.Images.Name(ref)
	if err != nil {
		return ocispec.Descriptor{}, notFound("An image does not exist locally with the tag: " + image.Familiar(ref))
	}
	out := &exporter.Image{Names: []string{ref}}
	for _, id := range n.Images {
		img, err := s.deps.Images.Get(string(id), nil)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if opt.Platform != nil && !runsOn(img.Platform, *opt.Platform) {
			continue
		}
		m, err := s.Manifest(ctx, img, n.Manifests()...)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		out.Manifests = append(out.Manifests, m)
	}
	if len(out.Manifests) == 0 {
		return ocispec.Descriptor{}, notFound(fmt.Sprintf("image with reference %s was found but does not provide the specified platform (%s)",
			image.Familiar(ref), platforms.Format(*opt.Platform)))
	}
	if idx := n.OwnIndex(); idx != nil {
		out.Raw = s.raw(*idx)
	}
	return s.Export(ctx, out, ExportOptions{Status: opt.Progress, Ways: true})
}

// A notFound is worker.ErrNotFound in docker's words.
type notFound string

func (e notFound) Error() string { return string(e) }

// Is matches worker.ErrNotFound.
func (e notFound) Is(target error) bool { return target == worker.ErrNotFound }

// Tags returns the tags that the registry has of a repository, sorted.
func (s *Service) Tags(ctx context.Context, repository string, opt worker.TransferOptions) ([]string, error) {
	ref, err := registry.ParseRef(repository)
	if err != nil {
		return nil, err
	}
	if opt.Keychain != nil {
		ctx = registry.WithKeychain(ctx, opt.Keychain)
	}
	return s.deps.Client.Tags(ctx, ref.Repo)
}

// Manifest makes an image of the store ready for export, and holds what it needs. Its manifest among docs is used if
// there is one, and otherwise one that was pulled or pushed, unless that has annotations.
func (s *Service) Manifest(ctx context.Context, img *image.Image, docs ...image.Descriptor) (exporter.Manifest, error) {
	m := exporter.Manifest{Platform: img.Platform, Config: img.Config}
	for _, l := range img.Layers {
		if held := lease.From(ctx); held != nil {
			if err := held.Hold(ctx, lease.ID(l.Snapshot)); err != nil {
				return m, fmt.Errorf("image %s: %w", img.ID, err)
			}
		}
		m.Layers = append(m.Layers, s.deps.Layers.Layer(l.Snapshot, l.DiffID))
	}
	if m.Raw = s.documentOf(docs, img.ID); m.Raw == nil {
		m.Raw = s.anyDocument(img)
	}
	return m, nil
}

// ExportOptions are those of Export.
type ExportOptions struct {
	Form     exporter.Form
	ByDigest bool                // no tags are set
	Insecure bool                // the registries need not prove who they are, nor speak TLS
	Status   func(solver.Status) // may be nil
	// Ways has the last status of a part that was not uploaded say how else it came there: "exists" or, with the path of
	// the repository that the registry had it in, "mounted from library/busybox".
	Ways bool
	// Made is told what the image consists of once its layers are there in the form asked for, and Sent is called when all
	// repositories have all blobs. Both may be nil.
	Made func(exporter.Contents)
	Sent func()
}

// Export pushes an image and notes what its repositories have then.
func (s *Service) Export(ctx context.Context, img *exporter.Image, opt ExportOptions) (exporter.Descriptor, error) {
	var docs pushedDocs
	opts := push.Options{Form: opt.Form, ByDigest: opt.ByDigest, Made: opt.Made, Sent: opt.Sent, Pushed: docs.add}
	if opt.Status != nil {
		p := &pushProgress{status: opt.Status, parts: make(map[string]*solver.Status), hows: make(map[string]string)}
		if opts.Progress = p.report; opt.Ways {
			opts.Came = p.came
		}
	}
	client := s.deps.Client
	if opt.Insecure {
		var err error
		if client, err = insecure(client, img.Names); err != nil {
			return exporter.Descriptor{}, err
		}
		defer client.Close()
	}
	desc, err := push.New(client, opts).Export(ctx, img)
	if err != nil {
		return desc, err
	}
	if err := s.noteOrigins(ctx, img); err != nil {
		return desc, err
	}
	ids, err := s.noteManifests(ctx, img, docs.all, desc.Digest)
	if err != nil || opt.ByDigest {
		return desc, err
	}
	return desc, s.noteServed(img, ids, docs.all, desc)
}

// insecure returns a client that trusts the registries of the names, which is for one push and to be closed.
func insecure(client *registry.Client, names []string) (*registry.Client, error) {
	var hosts []string
	for _, n := range names {
		ref, err := registry.ParseRef(n)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, ref.Host)
	}
	return client.Insecure(hosts...)
}

// noteServed notes under the names that were pushed what their repositories have now.
func (s *Service) noteServed(img *exporter.Image, ids []digest.Digest, docs []pushedDoc, desc exporter.Descriptor) error {
	for _, name := range img.Names {
		var inner []image.Descriptor
		for _, d := range docs {
			if d.repo == repoOf(name) && d.doc.Descriptor.Digest != desc.Digest {
				inner = append(inner, plain(d.doc.Descriptor))
			}
		}
		if err := s.deps.Images.SetServed(name, ids, desc, inner); err != nil {
			return err
		}
	}
	return nil
}

// repoOf returns the repository of a canonical reference.
func repoOf(name string) string {
	ref, err := registry.ParseRef(name)
	if err != nil {
		return ""
	}
	return ref.Repo.String()
}

// noteOrigins notes that the repositories that img was pushed to have its layers, so that a push to another repository
// of the same registry mounts them.
func (s *Service) noteOrigins(ctx context.Context, img *exporter.Image) error {
	var notes []image.Note
	for _, m := range img.Manifests {
		for _, l := range m.Layers {
			d, err := l.DiffID(ctx)
			if err != nil {
				return err
			}
			for _, name := range img.Names {
				ref, err := registry.ParseRef(name)
				if err != nil {
					return fmt.Errorf("noting what %s has: %w", name, err)
				}
				notes = append(notes, image.Note{DiffID: d, Origin: ref.Repo.String()})
			}
		}
	}
	return s.deps.Images.SetBlobs(notes...)
}

// noteManifests notes by which digests repositories have the images now, as a pull does: they are the RepoDigests that
// `image inspect` shows, and the next push sends the same bytes. An image that was pushed without being in the store has
// no record that could say so. It returns the IDs of the images; top is the digest of what stands for all of them.
func (s *Service) noteManifests(ctx context.Context, pushed *exporter.Image, docs []pushedDoc, top digest.Digest) ([]digest.Digest, error) {
	var ids []digest.Digest
	for _, m := range pushed.Manifests {
		id := digest.FromBytes(m.Config)
		ids = append(ids, id)
		img, err := s.deps.Images.Get(string(id), nil)
		if errors.Is(err, image.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		news := false
		for _, d := range docs {
			inner := d.doc.Descriptor.Digest != top
			if i := slices.IndexFunc(img.Manifests, d.is); i >= 0 {
				news = news || img.Manifests[i].Inner && !inner
				img.Manifests[i].Inner = img.Manifests[i].Inner && inner
				continue
			}
			if !d.leadsTo(id) {
				continue
			}
			desc, err := s.keep(ctx, d.doc)
			if err != nil {
				return nil, err
			}
			img.Manifests = append(img.Manifests, image.Manifest{Repository: d.repo, Descriptor: desc, Inner: inner})
			news = true
		}
		if !news {
			continue
		}
		if err := s.deps.Images.Put(img); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// A pushedDoc is a manifest or an index that a repository was given.
type pushedDoc struct {
	repo string
	doc  imagedoc.Document
}

// leadsTo says whether it is a manifest of the image with that ID; an index leads to all that was pushed with it.
func (d *pushedDoc) leadsTo(id digest.Digest) bool {
	if image.IsIndex(d.doc.Descriptor.MediaType) {
		return true
	}
	var m ocispec.Manifest
	return json.Unmarshal(d.doc.Bytes, &m) == nil && m.Config.Digest == id
}

func (d *pushedDoc) is(m image.Manifest) bool {
	return m.Repository == d.repo && m.Descriptor.Digest == d.doc.Descriptor.Digest
}

// pushedDocs collects what is pushed.
type pushedDocs struct {
	mu  sync.Mutex // guards all
	all []pushedDoc
}

func (p *pushedDocs) add(repo string, doc imagedoc.Document) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, pushedDoc{repo, doc})
}

// A pushProgress turns an exporter's progress into statuses.
type pushProgress struct {
	status func(solver.Status)

	mu    sync.Mutex // guards parts and hows, and the order of reports
	parts map[string]*solver.Status
	hows  map[string]string // of those that were not uploaded
}

// came notes how a part came to be in its repository.
func (p *pushProgress) came(id string, how registry.How, from registry.Repo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch how {
	case registry.Uploaded:
	case registry.Mounted:
		p.hows[id] = how.String() + " from " + from.Path
	default:
		p.hows[id] = how.String()
	}
}

func (p *pushProgress) report(id string, current, total int64, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.parts[id]
	if st == nil {
		st = &solver.Status{ID: id, Action: "pushing", Started: time.Now()}
		p.parts[id] = st
	}
	if how := p.hows[id]; done && how != "" {
		st.Action = how
	}
	if st.Current, st.Total = current, total; done {
		st.Ended = time.Now()
	}
	p.status(*st)
}
