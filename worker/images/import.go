package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-connections/nat"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// Import implements worker.Images. The layer is what the files are, not how the tar says it: the same files give the same
// diff ID, and the tar itself is not kept.
func (s *Service) Import(ctx context.Context, r io.Reader, opt worker.ImportOptions) (digest.Digest, error) {
	var names []string
	if opt.Name != "" {
		n, err := image.Normalize(opt.Name)
		if err != nil {
			return "", err
		}
		names = []string{n}
	}
	now := time.Now().UTC()
	c := frontend.ImageConfig{}
	c.Platform = s.deps.Platform
	if opt.Platform != nil && opt.Platform.OS != "" {
		c.Platform = *opt.Platform
	}
	c.Created = &now
	for _, ch := range opt.Changes {
		if err := applyChange(&c, ch); err != nil {
			return "", &frontend.UsageError{Message: fmt.Sprintf("change %q: %v", ch, err)}
		}
	}
	l := s.deps.Leases.Acquire("import")
	defer l.Release()
	ctx = lease.With(ctx, l)
	ly, err := s.importLayer(ctx, r)
	if err != nil {
		return "", fmt.Errorf("importing: %w", err)
	}
	comment := opt.Message
	if comment == "" {
		comment = "Imported from -" // as docker says
	}
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{ly.DiffID}}
	c.History = []ocispec.History{{Created: &now, Comment: comment}}
	img, err := finish(&c, []image.Layer{ly})
	if err == nil {
		err = s.store(ctx, image.Update{Images: []*image.Image{img}, Names: names})
	}
	if err != nil {
		return "", fmt.Errorf("importing: %w", err)
	}
	return img.ID, nil
}

// importLayer makes a snapshot of a tar.
func (s *Service) importLayer(ctx context.Context, r io.Reader) (_ image.Layer, err error) {
	sn := s.deps.Layers.Snapshots
	d := layer.NewDraft("import")
	id := snapshot.ID(d)
	if err := reserve(ctx, lease.ID(id)); err != nil {
		return image.Layer{}, err
	}
	mounts, err := sn.Prepare(ctx, d, "")
	if err != nil {
		return image.Layer{}, err
	}
	discard := true
	defer func() {
		if discard {
			err = errors.Join(err, sn.Discard(context.WithoutCancel(ctx), d))
		}
	}()
	t, ok := layer.TargetOf(mounts)
	if !ok {
		return image.Layer{}, errors.New("draft cannot be written to")
	}
	if _, err := layer.Apply(ctx, t, r, layer.Options{Limits: s.deps.Layers.Limits}); err != nil {
		return image.Layer{}, err
	}
	discard = false // gone whatever Commit returns
	if err := sn.Commit(ctx, d, id); err != nil {
		return image.Layer{}, err
	}
	derived, err := s.deps.Layers.DiffIDs.Wait(ctx, id)
	return derived.layer(id), err
}

// applyChange applies an instruction of a Dockerfile to a config.
func applyChange(c *frontend.ImageConfig, change string) error {
	ast, err := parser.Parse(strings.NewReader(change))
	if err != nil {
		return err
	}
	for _, n := range ast.AST.Children {
		cmd, err := instructions.ParseCommand(n)
		if err != nil {
			return err
		}
		if err := applyCommand(c, cmd); err != nil {
			return err
		}
	}
	return nil
}

func applyCommand(c *frontend.ImageConfig, cmd instructions.Command) error {
	conf := &c.Config
	switch cmd := cmd.(type) {
	case *instructions.CmdCommand:
		conf.Cmd = shellForm(cmd.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		conf.Entrypoint = shellForm(cmd.ShellDependantCmdLine)
	case *instructions.EnvCommand:
		for _, kv := range cmd.Env {
			conf.Env = setEnv(conf.Env, kv.Key, kv.Value)
		}
	case *instructions.LabelCommand:
		for _, kv := range cmd.Labels {
			set(&conf.Labels, kv.Key, kv.Value)
		}
	case *instructions.ExposeCommand:
		ports, _, err := nat.ParsePortSpecs(cmd.Ports)
		if err != nil {
			return err
		}
		for p := range ports {
			set(&conf.ExposedPorts, string(p), struct{}{})
		}
	case *instructions.VolumeCommand:
		for _, v := range cmd.Volumes {
			set(&conf.Volumes, v, struct{}{})
		}
	case *instructions.UserCommand:
		conf.User = cmd.User
	case *instructions.WorkdirCommand:
		conf.WorkingDir = path.Join("/", conf.WorkingDir, cmd.Path)
		if path.IsAbs(cmd.Path) {
			conf.WorkingDir = path.Clean(cmd.Path)
		}
	case *instructions.OnbuildCommand:
		conf.OnBuild = append(conf.OnBuild, cmd.Expression)
	case *instructions.StopSignalCommand:
		conf.StopSignal = cmd.Signal
	case *instructions.HealthCheckCommand:
		conf.Healthcheck = cmd.Health
	default:
		return fmt.Errorf("%s is not allowed here", strings.ToUpper(cmd.Name()))
	}
	return nil
}

func set[V any](m *map[string]V, k string, v V) {
	if *m == nil {
		*m = make(map[string]V)
	}
	(*m)[k] = v
}

// shellForm returns a command line, with the default shell before one that is not in JSON.
func shellForm(l instructions.ShellDependantCmdLine) []string {
	if l.PrependShell {
		return []string{"/bin/sh", "-c", strings.Join(l.CmdLine, " ")}
	}
	return slices.Clone(l.CmdLine)
}

func setEnv(env []string, key, value string) []string {
	for i, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}
