package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/mount"

	"github.com/boxbuild/boxbuild/worker"
)

// parseBind reads what -v has: [SOURCE:]TARGET[:MODE], where a source that is a path of the host is a bind and any other a
// volume's name.
func parseBind(spec string) (mountPoint, error) {
	bad := worker.Invalidf("invalid volume specification: '%s'", spec)
	parts := strings.SplitN(spec, ":", 4)
	if len(parts) > 3 || parts[0] == "" {
		return mountPoint{}, bad
	}
	var p mountPoint
	var source string
	switch len(parts) {
	case 1:
		p.Target = parts[0]
	case 2:
		if validMode(parts[1]) { // the target is missing, or the source
			return mountPoint{}, bad
		}
		source, p.Target = parts[0], parts[1]
	case 3:
		source, p.Target, p.Mode = parts[0], parts[1], parts[2]
		if !validMode(p.Mode) {
			return mountPoint{}, worker.Invalidf("invalid mode: %s", p.Mode)
		}
	}
	if err := cleanTarget(&p); err != nil {
		return mountPoint{}, worker.Invalidf("%v: %v", bad, err)
	}
	p.applyMode(source != "" && !path.IsAbs(source))
	extra := ""
	switch {
	case source == "":
		p.Type, p.Copy, p.Anonymous = mount.TypeVolume, true, true
	case path.IsAbs(source):
		p.Type, p.Source, p.MakeSource = mount.TypeBind, path.Clean(source), true
		if slices.ContainsFunc(strings.Split(p.Mode, ","), func(word string) bool { return modes[word] == "copy" }) {
			extra = "VolumeOptions"
		}
	default:
		p.Type, p.Name = mount.TypeVolume, source
		if p.Propagation != "" {
			extra = "BindOptions"
		}
	}
	if extra != "" {
		return mountPoint{}, worker.Invalidf("%v: invalid mount config for type %q: field %s must not be specified", bad, p.Type, extra)
	}
	if p.Type == mount.TypeVolume {
		orElse(&p.Mode, sharedLabel)
	}
	return p, nil
}

// sharedLabel is the mode of volumes without another one: docker labels them for all containers.
const sharedLabel = "z"

// modes are the words of the third part of -v, by what they are about; there may be one of each.
var modes = map[string]string{
	"rw": "access", "ro": "access", "z": "label", "Z": "label", "nocopy": "copy",
	"private": "propagation", "rprivate": "propagation", "slave": "propagation", "rslave": "propagation",
	"shared": "propagation", "rshared": "propagation",
	"consistent": "consistency", "cached": "consistency", "delegated": "consistency", "default": "consistency",
}

func validMode(mode string) bool {
	if mode == "" {
		return false
	}
	seen := make(map[string]bool)
	for _, word := range strings.Split(mode, ",") {
		about := modes[word]
		if about == "" || seen[about] {
			return false
		}
		seen[about] = true
	}
	return true
}

// applyMode does what p.Mode says; volume says that it is one of a volume that is named.
func (p *mountPoint) applyMode(volume bool) {
	p.Copy = volume
	for _, word := range strings.Split(p.Mode, ",") {
		switch modes[word] {
		case "access":
			p.ReadOnly = word == "ro"
		case "copy":
			p.Copy = false
		case "propagation":
			p.Propagation = mount.Propagation(word)
		}
	}
}

func cleanTarget(p *mountPoint) error {
	switch {
	case p.Target == "":
		return errors.New("field Target must not be empty")
	case !path.IsAbs(p.Target):
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", p.Target)
	}
	if p.Target = path.Clean(p.Target); p.Target == "/" {
		return errors.New("invalid specification: destination can't be '/'")
	}
	return nil
}

// parseMount checks what --mount has.
func parseMount(m *mount.Mount) (mountPoint, error) {
	p := mountPoint{Type: m.Type, Target: m.Target, ReadOnly: m.ReadOnly}
	err := cleanTarget(&p)
	if err == nil {
		err = extraneous(m)
	}
	if err == nil {
		switch m.Type {
		case mount.TypeBind:
			err = p.bind(m)
		case mount.TypeVolume:
			err = p.volume(m)
		case mount.TypeTmpfs:
			err = p.tmpfs(m)
		case mount.TypeImage:
			err = p.image(m)
		case mount.TypeNamedPipe, mount.TypeCluster:
			fallthrough
		default:
			err = errors.New("mount type unknown")
		}
	}
	if err != nil {
		return mountPoint{}, worker.Invalidf("invalid mount config for type %q: %v", m.Type, err)
	}
	return p, nil
}

// extraneous refuses options of another type than the mount's.
func extraneous(m *mount.Mount) error {
	for _, o := range []struct {
		of   mount.Type
		name string
		set  bool
	}{
		{mount.TypeBind, "BindOptions", m.BindOptions != nil},
		{mount.TypeVolume, "VolumeOptions", m.VolumeOptions != nil},
		{mount.TypeTmpfs, "TmpfsOptions", m.TmpfsOptions != nil},
		{mount.TypeImage, "ImageOptions", m.ImageOptions != nil},
	} {
		if o.set && o.of != m.Type {
			return fmt.Errorf("field %s must not be specified", o.name)
		}
	}
	return nil
}

var errNoSource = errors.New("field Source must not be empty")

func (p *mountPoint) bind(m *mount.Mount) error {
	if m.Source == "" {
		return errNoSource
	}
	if !path.IsAbs(m.Source) {
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", m.Source)
	}
	p.Source = path.Clean(m.Source)
	if o := m.BindOptions; o != nil {
		if o.Propagation != "" && !slices.Contains(mount.Propagations, o.Propagation) {
			return fmt.Errorf("invalid propagation mode: %s", o.Propagation)
		}
		if what := conflict(m.ReadOnly, o); what != "" {
			return fmt.Errorf("mount options conflict: %s", what)
		}
		p.Propagation, p.NonRecursive, p.ReadOnlyTop, p.MakeSource = o.Propagation, o.NonRecursive, o.ReadOnlyNonRecursive, o.CreateMountpoint
	}
	if _, err := os.Stat(p.Source); errors.Is(err, fs.ErrNotExist) && !p.MakeSource {
		return fmt.Errorf("bind source path does not exist: %s", p.Source)
	}
	return nil
}

// conflict says which options of a bind contradict each other, in docker's words; "" for none.
func conflict(readOnly bool, o *mount.BindOptions) string {
	switch {
	case !readOnly && o.ReadOnlyNonRecursive:
		return "!ReadOnly && BindOptions.ReadOnlyNonRecursive"
	case !readOnly && o.ReadOnlyForceRecursive:
		return "!ReadOnly && BindOptions.ReadOnlyForceRecursive"
	case o.ReadOnlyNonRecursive && o.ReadOnlyForceRecursive:
		return "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive"
	case o.NonRecursive && o.ReadOnlyForceRecursive:
		return "ReadOnlyForceRecursive && NonRecursive"
	}
	return ""
}

func (p *mountPoint) volume(m *mount.Mount) error {
	if m.Source == "" && m.ReadOnly {
		return errors.New("must not set ReadOnly mode when using anonymous volumes")
	}
	p.Name, p.Copy, p.Anonymous, p.Mode = m.Source, true, m.Source == "", sharedLabel
	if o := m.VolumeOptions; o != nil {
		if o.Subpath != "" && !localSubpath(o.Subpath) {
			return errors.New("subpath must be a relative path within the volume")
		}
		p.Copy, p.Subpath = !o.NoCopy && o.Subpath == "", o.Subpath
	}
	return nil
}

func localSubpath(sub string) bool {
	clean := path.Clean(sub)
	return !path.IsAbs(sub) && clean != ".." && !strings.HasPrefix(clean, "../")
}

func (p *mountPoint) tmpfs(m *mount.Mount) error {
	if m.Source != "" {
		return errors.New("field Source must not be specified")
	}
	if p.ReadOnly {
		p.Options = append(p.Options, "ro")
	}
	o := m.TmpfsOptions
	if o == nil {
		return nil
	}
	if o.SizeBytes < 0 {
		return errors.New("invalid tmpfs size")
	}
	if o.SizeBytes > 0 {
		p.Options = append(p.Options, fmt.Sprintf("size=%d", o.SizeBytes))
	}
	if o.Mode != 0 {
		p.Options = append(p.Options, fmt.Sprintf("mode=%o", o.Mode))
	}
	for _, opt := range o.Options {
		p.Options = append(p.Options, strings.Join(opt, "="))
	}
	return nil
}

func (p *mountPoint) image(m *mount.Mount) error {
	if m.Source == "" {
		return errNoSource
	}
	p.Source, p.ReadOnly = m.Source, true
	if o := m.ImageOptions; o != nil {
		if o.Subpath != "" && !localSubpath(o.Subpath) {
			return errors.New("subpath must be a relative path within the image")
		}
		p.Subpath = o.Subpath
	}
	return nil
}
