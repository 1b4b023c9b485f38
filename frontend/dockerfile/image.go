package dockerfile

import (
	"maps"
	"path"
	"slices"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

type history = ocispec.History

// historyComment is what BuildKit writes into each entry; tools look for it.
const historyComment = "buildkit.dockerfile.v0"

// record adds a history entry.
func (st *state) record(text string, layer bool) error {
	if err := st.t.budget.spend(len(text) + 100); err != nil {
		return err
	}
	st.img.History = append(st.img.History, history{
		CreatedBy: text, Comment: historyComment, EmptyLayer: !layer, Created: st.t.epoch,
	})
	return nil
}

// size returns about how many bytes a state takes beyond what it shares with that before it.
func (st *state) size() int {
	c := &st.img.Config
	n := 2000 + st.vars.size() + 112*len(st.img.History) + st.args.size()
	return n + 100*(len(c.Env)+len(c.ExposedPorts)+len(c.Volumes)+len(c.Labels))
}

// cloneConfig returns a copy that can be changed. Slices are shared: they are only appended to, and clipped here.
func cloneConfig(src *frontend.ImageConfig) frontend.ImageConfig {
	img := *src
	c := &img.Config
	c.Env = slices.Clip(c.Env)
	c.OnBuild = slices.Clip(c.OnBuild)
	c.ExposedPorts = maps.Clone(c.ExposedPorts)
	c.Volumes = maps.Clone(c.Volumes)
	c.Labels = maps.Clone(c.Labels)
	img.History = slices.Clip(img.History)
	return img
}

// emptyConfig is the configuration of an image with nothing in it.
func emptyConfig(p op.Platform) frontend.ImageConfig {
	img := frontend.ImageConfig{}
	img.Platform = p
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	if p.OS != windows {
		img.Config.Env = []string{"PATH=" + defaultPath}
	}
	return img
}

// image returns the result without the graph.
func (t *translation) image() *frontend.Image {
	st := t.plan.target.st
	img := &frontend.Image{
		Platform: t.platform, Config: st.img,
		Base: st.base, BaseConfig: st.baseCfg, Epoch: t.epoch,
	}
	c := &img.Config
	if len(t.req.Labels) > 0 && c.Config.Labels == nil {
		c.Config.Labels = map[string]string{}
	}
	maps.Copy(c.Config.Labels, t.req.Labels)
	if !t.implicit {
		p := t.platform
		same := p.OS == c.OS && p.Architecture == c.Architecture
		c.OS, c.Architecture = p.OS, p.Architecture
		if p.Variant != "" || !same {
			c.Variant = p.Variant
		}
		if p.OSVersion != "" || !same {
			c.OSVersion = p.OSVersion
		}
		if p.OSFeatures != nil {
			c.OSFeatures = slices.Clone(p.OSFeatures)
		}
	}
	c.Platform = platforms.Normalize(c.Platform)
	c.RootFS.DiffIDs = nil
	switch {
	case t.implicit && (c.OS != img.Platform.OS || c.Architecture != img.Platform.Architecture):
		img.Platform = c.Platform // it is what its base is
	case c.OS == windows:
		img.Platform.OSVersion, img.Platform.OSFeatures = c.OSVersion, c.OSFeatures // bases are for one version each
	}
	return img
}

// absolute joins p to dir if it is relative; an empty p is dir itself. A path that is absolute is left as it is written,
// since configurations and history show it.
func absolute(dir, p string) string {
	if !path.IsAbs(dir) {
		dir = "/" + dir
	}
	switch {
	case p == "":
		return dir
	case path.IsAbs(p):
		return p
	}
	return path.Join(dir, p)
}
