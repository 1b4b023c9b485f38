package runspec

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// storage is what the container finds beside its image.
type storage struct {
	volumes, volumesFrom, tmpfs, options opts.ListOpts
	mounts                               opts.MountOpt
	driver                               string
	readOnly                             bool
}

func (s *storage) register(fs *pflag.FlagSet) {
	s.volumes, s.volumesFrom = opts.NewListOpts(nil), opts.NewListOpts(nil)
	s.tmpfs, s.options = opts.NewListOpts(nil), opts.NewListOpts(nil)
	fs.VarP(&s.volumes, "volume", "v", "Bind mount a volume")
	fs.Var(&s.volumesFrom, "volumes-from", "Mount volumes from the specified container(s)")
	fs.Var(&s.mounts, "mount", "Attach a filesystem mount to the container")
	fs.Var(&s.tmpfs, "tmpfs", "Mount a tmpfs directory")
	fs.Var(&s.options, "storage-opt", "Storage driver options for the container")
	fs.StringVar(&s.driver, "volume-driver", "", "Optional volume driver for the container")
	fs.BoolVar(&s.readOnly, "read-only", false, "Mount the container's root filesystem as read only")
}

func (s *storage) apply(req *container.CreateRequest, _ *pflag.FlagSet) error {
	h := req.HostConfig
	req.Volumes = map[string]struct{}{}
	seen := map[string]bool{}
	for _, v := range s.volumes.GetSlice() {
		if seen[v] {
			continue
		}
		seen[v] = true
		bind, err := volume(v)
		switch {
		case err != nil:
			return err
		case bind:
			h.Binds = append(h.Binds, absolute(v))
		default:
			req.Volumes[v] = struct{}{}
		}
	}
	h.Tmpfs = map[string]string{}
	for _, t := range s.tmpfs.GetSlice() {
		target, options, _ := strings.Cut(t, ":")
		h.Tmpfs[target] = options
	}
	h.StorageOpt = map[string]string{}
	for _, o := range s.options.GetSlice() {
		key, value, ok := strings.Cut(o, "=")
		if !ok {
			return errors.New("invalid storage option")
		}
		h.StorageOpt[key] = value
	}
	h.VolumesFrom, h.Mounts, h.VolumeDriver, h.ReadonlyRootfs = s.volumesFrom.GetSlice(), s.mounts.Value(), s.driver, s.readOnly
	return nil
}

// volume says whether a value of --volume has a source: a directory of the host, or a volume by name. Whether the rest
// makes sense is for the daemon to say.
func volume(spec string) (bind bool, err error) {
	parts := strings.Split(spec, ":")
	switch {
	case spec == "":
		return false, errors.New("invalid empty volume spec")
	case len(spec) <= 2:
		return false, nil
	case len(parts) > 3:
		return false, fmt.Errorf("invalid spec: %s: too many colons", spec)
	}
	for _, p := range parts {
		if p == "" {
			return false, fmt.Errorf("invalid spec: %s: empty section between colons", spec)
		}
	}
	return len(parts) > 1, nil
}

// absolute makes the source of a bind absolute if it is a path: the daemon is somewhere else.
func absolute(spec string) string {
	source, rest, _ := strings.Cut(spec, ":")
	if !strings.HasPrefix(source, ".") {
		return spec
	}
	if abs, err := filepath.Abs(source); err == nil {
		source = abs
	}
	return source + ":" + rest
}
