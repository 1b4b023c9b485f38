package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	pb "github.com/moby/buildkit/frontend/gateway/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/frontend"
	llbfrontend "github.com/boxbuild/boxbuild/frontend/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// Keys of a result's metadata. Those of an image are followed by a slash and the platform's ID if there are several.
const (
	keyConfig     = "containerimage.config"
	keyBaseConfig = "containerimage.base.config"
	keyPlatforms  = "refs.platforms"
	keyEpoch      = "source.date.epoch"
)

// A platformList is the value of keyPlatforms.
type platformList struct{ Platforms []listedPlatform }

type listedPlatform struct {
	ID       string
	Platform ocispec.Platform
}

// ofOutput makes a result of what one of our frontends made, as BuildKit's Dockerfile frontend says it.
func ofOutput(out *frontend.Output) (*result, error) {
	r := &result{metadata: maps.Clone(out.Metadata)}
	if r.metadata == nil {
		r.metadata = make(map[string][]byte)
	}
	if out.Multi {
		r.refs = make(map[string]*ref)
	}
	var list platformList
	for i := range out.Images {
		img := &out.Images[i]
		p := platforms.Normalize(img.Platform)
		id := platforms.FormatAll(p)
		list.Platforms = append(list.Platforms, listedPlatform{id, p})
		var x *ref
		if img.Root != nil {
			x = newRef(*img.Root)
			x.image = img
		}
		suffix := ""
		if r.refs == nil {
			r.one = x
		} else {
			r.refs[id], suffix = x, "/"+id
		}
		raw := img.Raw
		if raw == nil {
			var err error
			if raw, err = json.Marshal(img.Config); err != nil {
				return nil, fmt.Errorf("writing the image's configuration: %w", err)
			}
		}
		r.metadata[keyConfig+suffix] = raw
		if img.BaseConfig != nil {
			base, err := json.Marshal(img.BaseConfig)
			if err != nil {
				return nil, fmt.Errorf("writing the base image's configuration: %w", err)
			}
			r.metadata[keyBaseConfig+suffix] = base
		}
		if img.Epoch != nil {
			r.metadata[keyEpoch+suffix] = strconv.AppendInt(nil, img.Epoch.Unix(), 10)
		}
	}
	if len(list.Platforms) > 0 {
		raw, err := json.Marshal(list)
		if err != nil {
			return nil, fmt.Errorf("writing the list of platforms: %w", err)
		}
		r.metadata[keyPlatforms] = raw
	}
	return r, nil
}

// refIDs returns the IDs of a result's refs.
func refIDs(r *pb.Result) []string {
	switch x := r.GetResult().(type) {
	case *pb.Result_RefDeprecated:
		return []string{x.RefDeprecated}
	case *pb.Result_RefsDeprecated:
		return slices.Collect(maps.Values(x.RefsDeprecated.GetRefs()))
	case *pb.Result_Ref:
		return []string{x.Ref.GetId()}
	case *pb.Result_Refs:
		var out []string
		for _, y := range x.Refs.GetRefs() {
			out = append(out, y.GetId())
		}
		return out
	}
	return nil
}

// output makes of what was returned what the builder builds.
func (c *conversation) output() (*frontend.Output, error) {
	c.mu.Lock()
	r, err := c.result, c.err
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, status.Error(codes.Unknown, "no result for incomplete build")
	}
	for _, k := range slices.Sorted(maps.Keys(r.GetAttestations())) {
		c.env.Warn(solver.Warning{
			Short:  "attestations of the result are left out" + strings.TrimSuffix(" for "+k, " for "),
			Detail: []string{"The frontend has made them, and images get none yet."},
		})
	}
	ids := map[string]string{}
	multi := false
	switch x := r.GetResult().(type) {
	case *pb.Result_RefDeprecated:
		ids[""] = x.RefDeprecated
	case *pb.Result_Ref:
		ids[""] = x.Ref.GetId()
	case *pb.Result_RefsDeprecated:
		multi, ids = true, x.RefsDeprecated.GetRefs()
	case *pb.Result_Refs:
		multi = true
		for k, y := range x.Refs.GetRefs() {
			ids[k] = y.GetId()
		}
	}
	return c.images(ids, multi, r.GetMetadata())
}

// images makes an output of refs by platform ID, or of one with the ID "".
func (c *conversation) images(ids map[string]string, multi bool, md map[string][]byte) (*frontend.Output, error) {
	out := &frontend.Output{Multi: multi}
	out.File, out.Text = c.onlyFile()
	list, err := listed(ids, multi, md)
	if err != nil {
		return nil, err
	}
	for _, l := range list {
		id := ids[l.ID]
		suffix := ""
		if multi {
			suffix = "/" + l.ID
		} else {
			id = ids[""]
		}
		r, err := c.ref(id)
		if err != nil {
			return nil, err
		}
		img, err := c.image(r, l.Platform, func(key string) []byte { return md[key+suffix] })
		if err != nil {
			return nil, err
		}
		out.Images = append(out.Images, *img)
	}
	for k, v := range md {
		if !strings.HasPrefix(k, keyConfig) && !strings.HasPrefix(k, keyBaseConfig) && !strings.HasPrefix(k, keyEpoch) && k != keyPlatforms {
			if out.Metadata == nil {
				out.Metadata = make(map[string][]byte)
			}
			out.Metadata[k] = v
		}
	}
	return out, nil
}

// listed returns the platforms of a result, in the order in which its frontend names them.
func listed(ids map[string]string, multi bool, md map[string][]byte) ([]listedPlatform, error) {
	var list platformList
	if raw, ok := md[keyPlatforms]; ok {
		var err error
		if list, err = parsePlatforms(raw); err != nil {
			return nil, err
		}
	}
	if !multi {
		if len(list.Platforms) > 1 {
			return nil, fmt.Errorf("number of platforms does not match references %d %d", len(list.Platforms), 1)
		}
		if len(list.Platforms) == 0 {
			return []listedPlatform{{}}, nil
		}
		return list.Platforms, nil
	}
	if len(list.Platforms) == 0 {
		// Whoever names its refs as platforms need not list them.
		for _, id := range slices.Sorted(maps.Keys(ids)) {
			p, err := platforms.Parse(id)
			if err != nil {
				return nil, fmt.Errorf("unable to export multiple refs, missing platforms mapping: %w", err)
			}
			list.Platforms = append(list.Platforms, listedPlatform{id, platforms.Normalize(p)})
		}
	}
	named := make(map[string]bool) // a platform that is asked for twice is listed twice, and has one ref
	for _, l := range list.Platforms {
		named[l.ID] = true
	}
	if len(named) != len(ids) {
		return nil, fmt.Errorf("number of platforms does not match references %d %d", len(named), len(ids))
	}
	for _, l := range list.Platforms {
		if _, ok := ids[l.ID]; !ok {
			return nil, fmt.Errorf("failed to find ref for ID %s", l.ID)
		}
	}
	return list.Platforms, nil
}

// parsePlatforms reads the value of keyPlatforms: whoever gives one names at least one platform, and each whole.
func parsePlatforms(raw []byte) (list platformList, err error) {
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &list); err != nil {
			return list, fmt.Errorf("failed to parse platforms passed to exporter: %w", err)
		}
	}
	if len(list.Platforms) == 0 {
		return list, errors.New("invalid empty platforms index for exporter")
	}
	for i, l := range list.Platforms {
		if l.ID == "" {
			return list, errors.New("invalid empty platform key for exporter")
		}
		if l.Platform.OS == "" || l.Platform.Architecture == "" {
			return list, fmt.Errorf("invalid platform value of %s for exporter: it needs an os and an architecture", l.ID)
		}
		list.Platforms[i].Platform = platforms.Normalize(l.Platform)
	}
	return list, nil
}

// image makes an image of a ref, nil for the empty tree. What its frontend said of it counts where what was returned says
// nothing.
func (c *conversation) image(r *ref, p op.Platform, value func(key string) []byte) (*frontend.Image, error) {
	img := &frontend.Image{Platform: p}
	if r != nil {
		img.Root = &r.in
		if r.image != nil {
			from := *r.image
			from.Root = img.Root
			if p.OS != "" {
				from.Platform = p
			}
			img = &from
		}
	}
	if raw := value(keyConfig); len(raw) > 0 {
		img.Raw = raw
	}
	if err := c.completeConfig(img); err != nil {
		return nil, err
	}
	if raw := value(keyBaseConfig); len(raw) > 0 && img.BaseConfig == nil {
		var base frontend.ImageConfig
		if err := json.Unmarshal(raw, &base); err != nil {
			return nil, fmt.Errorf("failed to parse base image config: %w", err)
		}
		img.BaseConfig = &base
	}
	if raw := value(keyEpoch); len(raw) > 0 {
		sec, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("invalid SOURCE_DATE_EPOCH %s from frontend: %w", raw, err)
		}
		t := time.Unix(sec, 0).UTC()
		img.Epoch = &t
	}
	return img, nil
}

// completeConfig fills in platform and configuration, each from the other where it is missing: a tree without a
// configuration is an image for the daemon's platform, with nothing but that in it.
func (c *conversation) completeConfig(img *frontend.Image) error {
	if img.Platform.OS == "" {
		img.Platform = c.req.Default
		if img.Platform.OS == "" {
			img.Platform = c.b.opt.Platform
		}
		var has ocispec.Platform
		if err := json.Unmarshal(img.Raw, &has); img.Raw != nil && err == nil {
			switch {
			case has.OS != "" && has.Architecture != "":
				img.Platform = platforms.Normalize(has)
			case has.OS != "" || has.Architecture != "":
				return errors.New("invalid image config: os and architecture must be specified together")
			}
		}
	}
	if img.Raw == nil {
		if img.Config.OS == "" {
			img.Config = llbfrontend.DefaultConfig(img.Platform)
		}
		return nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(img.Raw, &fields); err != nil {
		return fmt.Errorf("invalid image config: %w", err)
	}
	if fields == nil {
		return errors.New("invalid null image config")
	}
	changed := false
	for name, v := range map[string]string{"os": img.Platform.OS, "architecture": img.Platform.Architecture, "variant": img.Platform.Variant} {
		if have := string(fields[name]); have != "" && have != `""` && have != "null" || v == "" {
			continue
		}
		quoted, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("completing the image's configuration: %w", err)
		}
		fields[name], changed = quoted, true
	}
	if changed {
		raw, err := json.Marshal(fields)
		if err != nil {
			return fmt.Errorf("completing the image's configuration: %w", err)
		}
		img.Raw = raw
	}
	if err := json.Unmarshal(img.Raw, &img.Config); err != nil {
		return fmt.Errorf("invalid image config: %w", err)
	}
	return nil
}
