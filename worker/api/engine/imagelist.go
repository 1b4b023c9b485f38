package engine

import (
	"context"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// A group is an image as docker lists it: one for a name, whatever number of platforms that is for.
type imageGroup struct {
	main  worker.ImageSummary
	names []string // those that main stands for
	all   []worker.ImageSummary
}

// group puts the images that are for several platforms under one name together. The one for the daemon's own platform
// stands for them, or the first.
func group(list []worker.ImageSummary, own op.Platform) []imageGroup {
	owner := map[string]int{} // by name
	for i := range list {
		for _, n := range list[i].Names {
			if at, ok := owner[n]; !ok || suits(list[i].Platform, own) && !suits(list[at].Platform, own) {
				owner[n] = i
			}
		}
	}
	others := map[int][]int{}
	groups := make([]imageGroup, 0, len(list))
	index := map[int]int{}
	for i := range list {
		g := imageGroup{main: list[i], all: []worker.ImageSummary{list[i]}}
		for _, n := range list[i].Names {
			if at := owner[n]; at == i {
				g.names = append(g.names, n)
			} else if !slices.Contains(others[at], i) {
				others[at] = append(others[at], i)
			}
		}
		if len(list[i].Names) > 0 && len(g.names) == 0 {
			continue // another one stands for it
		}
		index[i] = len(groups)
		groups = append(groups, g)
	}
	for at, more := range others {
		g := &groups[index[at]]
		for _, i := range more {
			g.all = append(g.all, list[i])
		}
	}
	return groups
}

func suits(p, own op.Platform) bool { return p.OS == own.OS && p.Architecture == own.Architecture }

// listOptions are those of a list of images.
type listOptions struct {
	all, shared, manifests bool
}

// listImages is docker images.
func (s *Server) listImages(ctx context.Context, c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	if f := c.get("filter"); f != "" && c.before(41) {
		if filters == nil {
			filters = worker.Filters{}
		}
		filters["reference"] = append(filters["reference"], f)
	}
	list, err := s.imageList(ctx, filters, listOptions{
		all: c.is("all"), shared: c.is("shared-size") && !c.before(42),
		manifests: c.is("manifests") && !c.before(47) || c.is("identity") && !c.before(54),
	})
	if err != nil {
		return err
	}
	if c.before(51) {
		for i := range list {
			list[i].Containers = -1 // lists did not count them
		}
	}
	return c.send(http.StatusOK, imagesFor(list, c.version))
}

// imageList returns the images that filters let pass, the newest first.
func (s *Server) imageList(ctx context.Context, filters worker.Filters, opt listOptions) ([]image.Summary, error) {
	if err := filters.Check("before", "dangling", "label", "label!", "reference", "since", "until"); err != nil {
		return nil, err
	}
	match, err := s.imageMatcher(ctx, filters)
	if err != nil {
		return nil, err
	}
	list, err := s.opt.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	users, err := s.imageUsers(ctx)
	if err != nil {
		return nil, err
	}
	parents := make(map[digest.Digest]bool)
	for i := range list {
		parents[list[i].Parent] = true
	}
	out := []image.Summary{}
	for _, g := range group(list, s.opt.Platform) {
		// One without a name that others were committed from is a step on the way to these.
		if between := len(g.main.Names) == 0 && parents[g.main.ID]; between && (!opt.all || len(filters["dangling"]) > 0) {
			continue
		}
		if match(&g) {
			out = append(out, summary(&g, users, opt))
		}
	}
	slices.SortStableFunc(out, func(a, b image.Summary) int { return int(b.Created - a.Created) })
	return out, nil
}

// imageUsers returns the containers of each image, by its ID.
func (s *Server) imageUsers(ctx context.Context) (map[string][]string, error) {
	if s.opt.Containers == nil {
		return nil, nil
	}
	list, err := s.opt.Containers.List(ctx, worker.ListContainersOptions{All: true})
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for i := range list {
		users[list[i].ImageID] = append(users[list[i].ImageID], list[i].ID)
	}
	return users, nil
}

func summary(g *imageGroup, users map[string][]string, opt listOptions) image.Summary {
	img := &g.main
	out := image.Summary{
		ID: img.ID.String(), ParentID: img.Parent.String(), Created: img.Created.Unix(), Labels: img.Labels, Size: img.Size, SharedSize: -1,
		RepoTags: []string{}, RepoDigests: []string{}, Containers: int64(len(users[img.ID.String()])),
	}
	if img.Created.IsZero() {
		out.Created = 0
	}
	if opt.shared {
		out.SharedSize = img.SharedSize
	}
	for _, n := range g.names {
		out.RepoTags = append(out.RepoTags, familiar(n))
	}
	for _, d := range img.RepoDigests {
		out.RepoDigests = append(out.RepoDigests, familiar(d))
	}
	if d := descriptor(img); d != nil {
		out.Descriptor = d
	}
	if opt.manifests {
		out.Size = 0 // who asks for them shows what all of it takes on the disk
		for i := range g.all {
			m := manifestOf(&g.all[i], users)
			out.Manifests = append(out.Manifests, m)
			out.Size += m.Size.Total
		}
	}
	return out
}

// descriptor is what a registry has of an image; nil if none is known to have it.
func descriptor(img *worker.ImageSummary) *ocispec.Descriptor {
	for _, ref := range img.RepoDigests {
		if _, d, ok := strings.Cut(ref, "@"); ok {
			return &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(d), Size: img.ContentSize}
		}
	}
	return nil
}

// manifestOf describes the image for one platform. One that no registry has had has no manifest yet, and is known by its
// configuration.
func manifestOf(img *worker.ImageSummary, users map[string][]string) image.ManifestSummary {
	d := descriptor(img)
	if d == nil {
		d = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: img.ID, Size: img.ConfigSize}
	}
	p := img.Platform
	d.Platform = &p
	out := image.ManifestSummary{
		ID: d.Digest.String(), Descriptor: *d, Available: true, Kind: image.ManifestKindImage,
		ImageData: &image.ImageProperties{Platform: p, Containers: users[img.ID.String()]},
	}
	if out.ImageData.Containers == nil {
		out.ImageData.Containers = []string{}
	}
	out.Size.Content, out.Size.Total, out.ImageData.Size.Unpacked = img.ContentSize, img.ContentSize+img.Size, img.Size
	return out
}

// imageMatcher makes one function of filters.
func (s *Server) imageMatcher(ctx context.Context, f worker.Filters) (func(*imageGroup) bool, error) {
	var before, since, until time.Time
	for key, t := range map[string]*time.Time{"before": &before, "since": &since} {
		for _, ref := range f[key] {
			img, err := s.opt.Images.Inspect(ctx, ref, nil)
			if err != nil {
				return nil, noImage(ref, err)
			}
			*t = img.Created
		}
	}
	for _, v := range f["until"] {
		var err error
		if until, err = parseUntil(v); err != nil {
			return nil, err
		}
	}
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return nil, err
	}
	for _, p := range f["reference"] {
		if _, err := path.Match(p, ""); err != nil {
			return nil, worker.Invalidf("invalid filter 'reference=%s'", p)
		}
	}
	return func(g *imageGroup) bool {
		img := &g.main
		switch {
		case !before.IsZero() && !img.Created.Before(before), !since.IsZero() && !img.Created.After(since),
			!until.IsZero() && !img.Created.Before(until), !f.Labels(img.Labels):
			return false
		case len(f["dangling"]) > 0 && dangling != (len(g.names) == 0):
			return false
		case len(f["reference"]) == 0:
			return true
		}
		return g.only(f["reference"])
	}, nil
}

// only leaves the names that one of the patterns is for, and of the digests those that one is for and those of a repository
// that is left. It says whether there is any.
func (g *imageGroup) only(patterns []string) bool {
	repos := make(map[string]bool, len(g.names))
	g.names = slices.DeleteFunc(slices.Clone(g.names), func(n string) bool {
		ok := matchesReference(patterns, n)
		if ref, err := reference.ParseNormalizedNamed(n); ok && err == nil {
			repos[ref.Name()] = true
		}
		return !ok
	})
	g.main.RepoDigests = slices.DeleteFunc(slices.Clone(g.main.RepoDigests), func(d string) bool {
		ref, err := reference.ParseNormalizedNamed(d)
		return err != nil || !repos[ref.Name()] && !matchesReference(patterns, d)
	})
	return len(g.names)+len(g.main.RepoDigests) > 0
}

// parseUntil reads a time, or how long ago it was: "24h".
func parseUntil(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d), nil
	}
	t, err := parseInstant(s)
	if err != nil {
		for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
			if t, err = time.ParseInLocation(layout, s, time.Local); err == nil {
				return t, nil
			}
		}
		return t, worker.Invalidf("invalid filter 'until=%s': it is neither a time nor a duration", s)
	}
	return t, nil
}

// matchesReference says whether one of the patterns is for a name: "busybox", "busy*:1.*", "repo/*".
func matchesReference(patterns []string, name string) bool {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := reference.FamiliarMatch(p, ref)
		return err == nil && ok
	})
}

// familiar is a name as docker shows it.
func familiar(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(ref)
}

// imagesFor is a list as clients of a version expect it.
func imagesFor(list []image.Summary, v version) any {
	before := func(minor int) bool { return v.less(version{1, minor}) }
	if !before(51) {
		return list
	}
	out := make([]oldSummary, len(list))
	for i, img := range list {
		if before(48) {
			img.Descriptor = nil
		}
		if before(43) && len(img.RepoTags) == 0 && len(img.RepoDigests) == 0 {
			img.RepoTags, img.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
		out[i].Summary = img
		if before(44) {
			out[i].VirtualSize = img.Size
		}
	}
	return out
}

// oldSummary is an image before 1.44.
type oldSummary struct {
	image.Summary
	VirtualSize int64 `json:",omitempty"`
}
