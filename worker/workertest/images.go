package workertest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// Images implements worker.Images. It is safe for concurrent use.
type Images struct {
	// Registry are the images that can be pulled, and those that were pushed, by canonical name. The registry
	// "private.example" wants the user "alice" with the password "secret".
	Registry map[string]string
	// Now is when images are made; time.Now if nil.
	Now func() time.Time

	mu   sync.Mutex // guards all below and Registry
	list []*worker.ImageDetail
}

func (i *Images) now() time.Time {
	if i.Now != nil {
		return i.Now()
	}
	return time.Now()
}

// add adds an image with that config, whose one layer is named after content; one that is there stays.
func (i *Images) add(config *frontend.ImageConfig, content []byte) *worker.ImageDetail {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := *config
	c.OS, c.Architecture = "linux", "amd64"
	layer := digest.FromBytes(content)
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer}}
	raw, err := json.Marshal(&c)
	if err != nil {
		panic(err) // the config holds nothing that has no JSON
	}
	id := digest.FromBytes(raw)
	for _, img := range i.list {
		if img.ID == id {
			return img
		}
	}
	img := &worker.ImageDetail{
		ImageSummary: worker.ImageSummary{
			ID: id, Created: i.now(), Size: 1234567, ContentSize: 30720, Labels: c.Config.Labels,
			Platform: op.Platform{OS: "linux", Architecture: "amd64"},
		},
		Config: c, Raw: raw, Layers: []digest.Digest{layer},
	}
	i.list = append(i.list, img)
	return img
}

func canonical(ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", &frontend.UsageError{Message: fmt.Sprintf("invalid reference %q: %v", ref, err)}
	}
	return reference.TagNameOnly(named).String(), nil
}

func (i *Images) find(ref string) (*worker.ImageDetail, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.findLocked(ref)
}

// findFor finds an image for p, unless that is nil.
func (i *Images) findFor(ref string, p *op.Platform) (*worker.ImageDetail, error) {
	if p == nil {
		return i.find(ref)
	}
	return i.findAny(ref, []op.Platform{*p})
}

// findAny finds an image that is for one of platforms, if there are any.
func (i *Images) findAny(ref string, platforms []op.Platform) (*worker.ImageDetail, error) {
	img, err := i.find(ref)
	if err == nil && len(platforms) > 0 && !slices.ContainsFunc(platforms, func(p op.Platform) bool {
		return p.OS == img.Platform.OS && p.Architecture == img.Platform.Architecture
	}) {
		return nil, fmt.Errorf("%w: %s for %s/%s", worker.ErrNotFound, ref, platforms[0].OS, platforms[0].Architecture)
	}
	return img, err
}

func (i *Images) findLocked(ref string) (*worker.ImageDetail, error) {
	want, err := canonical(ref)
	for _, img := range i.list {
		if img.ID.String() == ref || (err == nil && slices.Contains(img.Names, want)) {
			return img, nil
		}
	}
	var found []*worker.ImageDetail
	for _, img := range i.list {
		if len(ref) >= 2 && strings.HasPrefix(img.ID.Encoded(), strings.TrimPrefix(ref, "sha256:")) {
			found = append(found, img)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: %s", worker.ErrNotFound, ref)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%w: %s", worker.ErrAmbiguous, ref)
}

// List implements worker.Images.
func (i *Images) List(context.Context) ([]worker.ImageSummary, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []worker.ImageSummary
	for _, img := range i.list {
		out = append(out, img.ImageSummary)
	}
	return out, nil
}

// Inspect implements worker.Images.
func (i *Images) Inspect(_ context.Context, ref string, p *op.Platform) (*worker.ImageDetail, error) {
	return i.findFor(ref, p)
}

// History implements worker.Images.
func (i *Images) History(_ context.Context, ref string, p *op.Platform) ([]worker.HistoryEntry, error) {
	img, err := i.findFor(ref, p)
	if err != nil {
		return nil, err
	}
	return []worker.HistoryEntry{
		{ID: img.ID.String(), Created: img.Created, CreatedBy: "CMD [\"/bin/sh\"]", Comment: "boxbuild", Tags: img.Names},
		{ID: "<missing>", Created: img.Created, CreatedBy: "ADD a very long file name of a root file system in / # boxbuild", Size: img.Size},
	}, nil
}

// Tag implements worker.Images.
func (i *Images) Tag(_ context.Context, src, dst string) error {
	name, err := canonical(dst)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	img, err := i.findLocked(src)
	if err != nil {
		return err
	}
	for _, other := range i.list {
		other.Names = slices.DeleteFunc(slices.Clone(other.Names), func(n string) bool { return n == name })
	}
	img.Names = append(img.Names, name)
	img.LastTagged = i.now()
	return nil
}

// Tags implements worker.Images.
func (i *Images) Tags(ctx context.Context, repository string, opt worker.TransferOptions) ([]string, error) {
	name, err := canonical(repository)
	if err != nil {
		return nil, err
	}
	if err := authorize(ctx, opt.Keychain, name); err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	var tags []string
	for ref := range i.Registry {
		if tag, ok := strings.CutPrefix(ref, strings.TrimSuffix(name, "latest")); ok {
			tags = append(tags, tag)
		}
	}
	if tags == nil {
		return nil, fmt.Errorf("listing the tags of %s: %w", repository, registry.ErrNotFound)
	}
	slices.Sort(tags)
	return tags, nil
}

// Remove implements worker.Images.
func (i *Images) Remove(_ context.Context, ref string, opt worker.RemoveOptions) ([]worker.Removed, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	img, err := i.findLocked(ref)
	if err != nil {
		return nil, err
	}
	var out []worker.Removed
	if want, err := canonical(ref); err == nil && slices.Contains(img.Names, want) {
		img.Names = slices.DeleteFunc(slices.Clone(img.Names), func(n string) bool { return n == want })
		out = append(out, worker.Removed{Untagged: familiar(want)})
		if len(img.Names) > 0 {
			return out, nil
		}
	} else if len(img.Names) > 1 && !opt.Force {
		return nil, fmt.Errorf("removing %s: %w: it has several names", ref, worker.ErrInUse)
	}
	for _, n := range img.Names {
		out = append(out, worker.Removed{Untagged: familiar(n)})
	}
	i.list = slices.DeleteFunc(i.list, func(other *worker.ImageDetail) bool { return other == img })
	return append(out, worker.Removed{Deleted: img.ID.String()}), nil
}

func familiar(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}

// authorize asks the keychain as a registry client does.
func authorize(ctx context.Context, k authn.Keychain, ref string) error {
	named, err := name.ParseReference(ref)
	if err != nil {
		return err
	}
	if named.Context().RegistryStr() != "private.example" {
		return nil
	}
	auth := authn.Anonymous
	if k != nil {
		if auth, err = authn.Resolve(ctx, k, named.Context()); err != nil {
			return err
		}
	}
	conf, err := auth.Authorization()
	if err != nil {
		return err
	}
	if conf.Username != "alice" || conf.Password != "secret" {
		return fmt.Errorf("pulling %s: %w", ref, registry.ErrUnauthorized)
	}
	return nil
}

// Login checks credentials as the registry of Images does.
func Login(_ context.Context, _ string, auth authn.AuthConfig) (string, error) {
	if auth.Username != "alice" || auth.Password != "secret" {
		return "", registry.ErrUnauthorized
	}
	return "", nil
}

// Pull implements worker.Images.
func (i *Images) Pull(ctx context.Context, ref string, opt worker.TransferOptions) (*worker.PullResult, error) {
	name, err := canonical(ref)
	if err != nil {
		return nil, err
	}
	if err := authorize(ctx, opt.Keychain, name); err != nil {
		return nil, err
	}
	i.mu.Lock()
	content, ok := i.Registry[name]
	i.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("pulling %s: %w", name, registry.ErrNotFound)
	}
	if opt.Progress != nil {
		begin := i.now()
		for n := range int64(3) {
			opt.Progress(solver.Status{ID: digest.FromString(content).String(), Action: "downloading", Current: n * 512, Total: 1024, Started: begin})
		}
		opt.Progress(solver.Status{ID: digest.FromString(content).String(), Action: "downloading", Current: 1024, Total: 1024, Started: begin, Ended: i.now()})
		opt.Progress(solver.Status{ID: digest.FromString(content).String(), Action: "extracting", Current: 512, Total: 1024, Started: begin})
		opt.Progress(solver.Status{ID: digest.FromString(content).String(), Action: "extracting", Current: 1024, Total: 1024, Started: begin, Ended: i.now()})
	}
	before, _ := i.find(name)
	img := i.add(&frontend.ImageConfig{}, []byte(content))
	if err := i.Tag(ctx, img.ID.String(), name); err != nil {
		return nil, err
	}
	return &worker.PullResult{Name: name, Digest: digest.FromString(content), ID: img.ID, Updated: before != img}, nil
}

// Push implements worker.Images.
func (i *Images) Push(ctx context.Context, ref string, opt worker.TransferOptions) (ocispec.Descriptor, error) {
	img, err := i.find(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	name, err := canonical(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := authorize(ctx, opt.Keychain, name); err != nil {
		return ocispec.Descriptor{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.Registry == nil {
		i.Registry = map[string]string{}
	}
	i.Registry[name] = string(img.Raw)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(img.Raw), Size: int64(len(img.Raw))}, nil
}

// Load implements worker.Images: an archive is lines of "name content".
func (i *Images) Load(ctx context.Context, r io.Reader, opt worker.LoadOptions) ([]worker.Loaded, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var out []worker.Loaded
	for line := range strings.Lines(string(data)) {
		name, content, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			return nil, &frontend.UsageError{Message: "the archive is damaged"}
		}
		img := i.add(&frontend.ImageConfig{}, []byte(content))
		if name != "-" {
			if err := i.Tag(ctx, img.ID.String(), name); err != nil {
				return nil, err
			}
			out = append(out, worker.Loaded{Name: familiarTag(name), ID: img.ID})
			continue
		}
		out = append(out, worker.Loaded{ID: img.ID})
	}
	return out, nil
}

func familiarTag(ref string) string {
	name, err := canonical(ref)
	if err != nil {
		return ref
	}
	return familiar(name)
}

// Save implements worker.Images; it writes what Load reads.
func (i *Images) Save(_ context.Context, refs []string, platforms []op.Platform, w io.Writer) error {
	var b bytes.Buffer
	for _, ref := range refs {
		img, err := i.findAny(ref, platforms)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %s\n", ref, img.Layers[0])
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Import implements worker.Images.
func (i *Images) Import(ctx context.Context, r io.Reader, opt worker.ImportOptions) (digest.Digest, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	config := frontend.ImageConfig{}
	for _, c := range opt.Changes {
		word, rest, _ := strings.Cut(c, " ")
		if word != "CMD" {
			return "", &frontend.UsageError{Message: fmt.Sprintf("%s is not a valid change command", strings.ToLower(word))}
		}
		config.Config.Cmd = []string{"/bin/sh", "-c", rest}
	}
	img := i.add(&config, data)
	if opt.Name != "" {
		if err := i.Tag(ctx, img.ID.String(), opt.Name); err != nil {
			return "", err
		}
	}
	return img.ID, nil
}

// DiskUsage implements worker.Images.
func (i *Images) DiskUsage(context.Context) (*worker.DiskUsage, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	du := &worker.DiskUsage{
		BuildCache: worker.UsageClass{Total: 2, Size: 3000, Reclaimable: 2000},
		Records: []worker.UsageRecord{
			{ID: "abcdefghijklmnop", Type: "regular", Description: "[2/2] RUN make", Size: 2000, Created: i.now(), LastUsed: i.now(), Uses: 3},
			{ID: "qrstuvwxyzabcdef", Type: "source.local", Description: "context", Size: 1000, Created: i.now(), InUse: true, Shared: true},
		},
	}
	for _, img := range i.list {
		du.Images.Total++
		du.Images.Size += img.Size
		if len(img.Names) == 0 {
			du.Images.Reclaimable += img.Size
		}
	}
	return du, nil
}

// Prune implements worker.Images.
func (i *Images) Prune(_ context.Context, opt worker.PruneOptions) (*worker.PruneReport, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	rep := &worker.PruneReport{}
	if opt.Cache {
		rep.Cache = []string{"abcdefghijklmnop"}
		rep.Freed += 2000
	}
	if opt.Images {
		var kept []*worker.ImageDetail
		for _, img := range i.list {
			if len(img.Names) > 0 && !opt.All {
				kept = append(kept, img)
				continue
			}
			for _, n := range img.Names {
				rep.Images = append(rep.Images, worker.Removed{Untagged: familiar(n)})
			}
			rep.Images = append(rep.Images, worker.Removed{Deleted: img.ID.String()})
			rep.Freed += img.Size
		}
		i.list = kept
	}
	slices.SortFunc(rep.Images, func(a, b worker.Removed) int {
		return cmp.Compare(a.Untagged+a.Deleted, b.Untagged+b.Deleted)
	})
	return rep, nil
}
