package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/worker"
)

// noImage gives the error of a look-up docker's words, which scripts look for.
func noImage(ref string, err error) error {
	switch {
	case errors.Is(err, worker.ErrNotFound):
		if !strings.Contains(ref, "@") && !isHexID(ref) {
			if named, err := reference.ParseNormalizedNamed(ref); err == nil {
				ref = reference.FamiliarString(reference.TagNameOnly(named))
			}
		}
		return worker.NotFoundf("No such image: %s", ref)
	case errors.Is(err, worker.ErrAmbiguous):
		return worker.NotFoundf("multiple images found with provided prefix: %s", ref)
	}
	return err
}

// isHexID says whether a reference is an image's ID in full.
func isHexID(ref string) bool {
	ref = strings.TrimPrefix(ref, "sha256:")
	return len(ref) == 64 && strings.Trim(ref, "0123456789abcdef") == ""
}

func (s *Server) inspectImage(ctx context.Context, c *call) error {
	ref := c.vars[0]
	platform, err := c.platform()
	if err != nil {
		return err
	}
	if c.before(49) {
		platform = nil
	}
	manifests := c.is("manifests") && !c.before(48)
	if manifests && platform != nil {
		return worker.Invalidf("conflicting options: manifests and platform options cannot both be set")
	}
	img, err := s.opt.Images.Inspect(ctx, ref, platform)
	if err != nil {
		return noImage(ref, err)
	}
	out := imageDetail(img)
	if manifests {
		if out.Manifests, err = s.manifestsOf(ctx, img); err != nil {
			return err
		}
	}
	out.GraphDriver.Name = s.opt.Info(ctx).Driver
	if c.before(48) {
		out.Descriptor = nil
	}
	if c.before(53) {
		out.Identity = nil
	}
	return c.send(http.StatusOK, imageFor(img, out, c.version))
}

func imageDetail(img *worker.ImageDetail) *image.InspectResponse {
	out := &image.InspectResponse{
		ID: img.ID.String(), RepoTags: []string{}, RepoDigests: []string{},
		Author: img.Config.Author, Config: &img.Config.Config,
		Architecture: img.Config.Architecture, Variant: img.Config.Variant, Os: img.Config.OS, OsVersion: img.Config.OSVersion,
		Size: img.Size, RootFS: image.RootFS{Type: "layers"}, Metadata: image.Metadata{LastTagTime: img.LastTagged},
		GraphDriver: &storage.DriverData{Data: map[string]string{}},
		Descriptor:  descriptor(&img.ImageSummary),
	}
	if !img.Created.IsZero() {
		out.Created = img.Created.UTC().Format(time.RFC3339Nano)
	}
	if n := len(img.Config.History); n > 0 {
		out.Comment = img.Config.History[n-1].Comment
	}
	for _, n := range img.Names {
		out.RepoTags = append(out.RepoTags, familiar(n))
	}
	for _, d := range img.RepoDigests {
		out.RepoDigests = append(out.RepoDigests, familiar(d))
	}
	for _, l := range img.Layers {
		out.RootFS.Layers = append(out.RootFS.Layers, l.String())
	}
	return out
}

// manifestsOf describes the images that are for other platforms under the same names, with img itself.
func (s *Server) manifestsOf(ctx context.Context, img *worker.ImageDetail) ([]image.ManifestSummary, error) {
	list, err := s.opt.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	users, err := s.imageUsers(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range group(list, s.opt.Platform) {
		for i := range g.all {
			if g.all[i].ID != img.ID {
				continue
			}
			var out []image.ManifestSummary
			for j := range g.all {
				out = append(out, manifestOf(&g.all[j], users))
			}
			return out, nil
		}
	}
	return []image.ManifestSummary{manifestOf(&img.ImageSummary, users)}, nil
}

// imageFor is an image, whose description in the current version is img, as clients of a version expect it.
func imageFor(of *worker.ImageDetail, img *image.InspectResponse, v version) any {
	before := func(minor int) bool { return v.less(version{1, minor}) }
	if !before(52) {
		return img
	}
	old := oldInspect{
		InspectResponse: img, Parent: of.Parent.String(), Comment: img.Comment, Author: img.Author, Config: oldConfig(img, v),
	}
	var classic classicConfig
	if json.Unmarshal(of.Raw, &classic) == nil { // else it says nothing sensible
		old.DockerVersion = classic.DockerVersion
	}
	if before(45) {
		old.Container = &classic.Container
		old.ContainerConfig = &oldContainerConfig{Config: &classic.ContainerConfig, OnBuild: classic.ContainerConfig.OnBuild}
	}
	if before(44) {
		old.VirtualSize = img.Size
		if img.Created == "" {
			img.Created = time.Time{}.Format(time.RFC3339Nano)
		}
	}
	return old
}

// oldInspect has the fields that were there before 1.52 even if they were empty.
type oldInspect struct {
	*image.InspectResponse
	Parent, Comment, DockerVersion, Author string
	VirtualSize                            int64               `json:",omitempty"`
	Container                              *string             `json:",omitempty"`
	ContainerConfig                        *oldContainerConfig `json:",omitempty"`
	Config                                 map[string]any
}

// classicConfig is what docker's old builder wrote of itself into an image.
type classicConfig struct {
	DockerVersion   string           `json:"docker_version"`
	Container       string           `json:"container"` // that the image was made of
	ContainerConfig container.Config `json:"container_config"`
}

// oldConfig is the configuration with the fields that were there before 1.52, though they never said anything of an image.
func oldConfig(img *image.InspectResponse, v version) map[string]any {
	out := map[string]any{
		"Cmd": nil, "Entrypoint": nil, "Env": nil, "Labels": nil, "OnBuild": nil, "User": "", "Volumes": nil, "WorkingDir": "",
	}
	if v.less(version{1, 50}) {
		for k, val := range map[string]any{
			"Hostname": "", "Domainname": "", "AttachStdin": false, "AttachStdout": false, "AttachStderr": false, "Tty": false,
			"OpenStdin": false, "StdinOnce": false, "Image": "",
		} {
			out[k] = val
		}
	}
	b, err := json.Marshal(img.Config)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		panic(fmt.Errorf("the configuration of an image is not its own JSON: %w", err))
	}
	return out
}

func (s *Server) imageHistory(ctx context.Context, c *call) error {
	platform, err := c.platform()
	if err != nil {
		return err
	}
	if c.before(48) {
		platform = nil
	}
	entries, err := s.opt.Images.History(ctx, c.vars[0], platform)
	if err != nil {
		return noImage(c.vars[0], err)
	}
	out := make([]image.HistoryResponseItem, len(entries))
	for i, e := range entries {
		out[i] = image.HistoryResponseItem{ID: e.ID, Created: e.Created.Unix(), CreatedBy: e.CreatedBy, Size: e.Size, Comment: e.Comment}
		if e.Created.IsZero() {
			out[i].Created = 0
		}
		for _, t := range e.Tags {
			out[i].Tags = append(out[i].Tags, familiar(t))
		}
	}
	return c.send(http.StatusOK, out)
}

func (s *Server) tagImage(ctx context.Context, c *call) error {
	ref, err := repoTag(c.get("repo"), c.get("tag"))
	switch {
	case err != nil:
		return err
	case ref == nil:
		return worker.Invalidf("repository name must have at least one component")
	case reference.FamiliarName(ref) == string(digest.Canonical):
		return worker.Invalidf("refusing to create an ambiguous tag using digest algorithm as name")
	}
	if err := s.opt.Images.Tag(ctx, c.vars[0], ref.String()); err != nil {
		return noImage(c.vars[0], err)
	}
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// repoTag makes a reference of a repository and a tag, which may be within the repository; nil for none.
func repoTag(repo, tag string) (reference.Named, error) {
	if repo == "" {
		return nil, nil
	}
	ref, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return nil, worker.Invalidf("%v", err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return nil, worker.Invalidf("cannot use digest reference")
	}
	if tag != "" {
		if ref, err = reference.WithTag(reference.TrimNamed(ref), tag); err != nil {
			return nil, worker.Invalidf("%v", err)
		}
	}
	return reference.TagNameOnly(ref), nil
}

func (s *Server) removeImage(ctx context.Context, c *call) error {
	ref := c.vars[0]
	if strings.TrimSpace(ref) == "" {
		return worker.Invalidf("image name cannot be blank")
	}
	opt := worker.RemoveOptions{Force: c.is("force"), NoPrune: c.is("noprune")}
	if !c.before(50) {
		var err error
		if opt.Platforms, err = parsePlatforms(c.form["platforms"]); err != nil {
			return err
		}
	}
	removed, err := s.opt.Images.Remove(ctx, ref, opt)
	switch {
	case errors.Is(err, worker.ErrInUse):
		return worker.Errorf(errdefs.ErrConflict, "%v", err) // in docker's words
	case err != nil:
		return noImage(ref, err)
	}
	return c.send(http.StatusOK, deletions(removed))
}

func deletions(removed []worker.Removed) []image.DeleteResponse {
	out := make([]image.DeleteResponse, len(removed))
	for i, r := range removed {
		out[i] = image.DeleteResponse{Untagged: r.Untagged, Deleted: r.Deleted}
	}
	return out
}

func (s *Server) pruneImages(ctx context.Context, c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	if err := filters.Check("dangling", "label", "label!", "until"); err != nil {
		return err
	}
	dangling, err := filters.Bool("dangling", true)
	if err != nil {
		return err
	}
	opt := worker.PruneOptions{Images: true, All: !dangling, Labels: pruneLabels(filters)}
	for _, v := range filters["until"] {
		t, err := parseUntil(v)
		if err != nil {
			return err
		}
		opt.KeepFor = max(time.Since(t), 0)
	}
	rep, err := s.opt.Images.Prune(ctx, opt)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, image.PruneReport{ImagesDeleted: deletions(rep.Images), SpaceReclaimed: uint64(max(rep.Freed, 0))})
}

// pruneLabels are the filters for labels in the words of PruneOptions.
func pruneLabels(f worker.Filters) []string {
	out := append([]string(nil), f["label"]...)
	for _, l := range f["label!"] {
		if name, value, ok := strings.Cut(l, "="); ok {
			out = append(out, name+"!="+value)
		} else {
			out = append(out, l+"!")
		}
	}
	return out
}
