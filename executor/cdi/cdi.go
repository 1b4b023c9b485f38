// Package cdi gives sandboxes the devices that specifications of the Container Device Interface describe: files that the
// vendor of a device, or the administrator, puts into directories such as /etc/cdi and /var/run/cdi
// (https://github.com/cncf-tags/container-device-interface, version 1.1).
//
// The files are read when a build names a device, and no sooner: a machine without such devices pays nothing, and what is
// installed while the daemon runs is found.
package cdi

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"github.com/boxbuild/boxbuild/executor"
)

// Annotations of a device, or of all of a file, as BuildKit has them.
const (
	classAnnotation     = "org.mobyproject.buildkit.device.class"     // another name for it
	autoAllowAnnotation = "org.mobyproject.buildkit.device.autoallow" // whether builds need no entitlement for it
)

// Options say where devices are described and who may have them.
type Options struct {
	Disabled    bool     // there are no devices
	Dirs        []string // empty for /etc/cdi and /var/run/cdi; one that is "" disables, as dockerd has it
	AutoAllowed []string // names and kinds ("vendor.com/class") of devices that need no entitlement
	// Log is told of files that make no sense; nil for nobody.
	Log *slog.Logger
}

// Devices are the devices of this machine. It is safe for concurrent use.
type Devices struct{ opt Options }

// New returns the devices that opt says.
func New(opt Options) *Devices {
	if len(opt.Dirs) == 0 {
		opt.Dirs = cdi.DefaultSpecDirs
	}
	if opt.Disabled || slices.Equal(opt.Dirs, []string{""}) {
		opt.Disabled, opt.Dirs = true, []string{}
	}
	return &Devices{opt}
}

// load reads the files. One that makes no sense is as if it were not there, as in other users of the interface.
func (d *Devices) load() *registry {
	r := read(d.opt.Dirs)
	if d.opt.Log != nil {
		for _, file := range slices.Sorted(maps.Keys(r.errors)) {
			d.opt.Log.Warn("a description of devices is left out", "file", file, "error", errors.Join(r.errors[file]...))
		}
	}
	return r
}

var _ executor.Devices = (*Devices)(nil)

// Find implements executor.Devices. A name is "vendor/class=name" for one, "vendor/class=*" for all of that kind,
// "vendor/class" for the first of them, and another name for all that have it as their class.
func (d *Devices) Find(name string) ([]executor.NamedDevice, error) {
	r := d.load()
	var out []executor.NamedDevice
	for _, n := range find(r, name) {
		out = append(out, executor.NamedDevice{Name: n, AutoAllowed: d.autoAllowed(r, n)})
	}
	return out, nil
}

func find(r *registry, name string) []string {
	if name == "" {
		return nil // what has no class is not of the class ""
	}
	all := r.names()
	kind, one, _ := strings.Cut(name, "=")
	if vendor, _ := parser.ParseQualifier(kind); vendor != "" {
		ofKind := slices.DeleteFunc(slices.Clone(all), func(n string) bool { return !strings.HasPrefix(n, kind+"=") })
		switch {
		case one == "":
			ofKind = ofKind[:min(1, len(ofKind))]
		case one != "*":
			ofKind = slices.DeleteFunc(ofKind, func(n string) bool { return n != name })
		}
		if len(ofKind) > 0 {
			return ofKind
		}
	}
	return slices.DeleteFunc(all, func(n string) bool { return annotations(r.devices[n])[classAnnotation] != name })
}

// annotations are those of the file, and over them those of the device.
func annotations(dev *cdi.Device) map[string]string {
	out := make(map[string]string)
	if dev != nil {
		maps.Copy(out, dev.GetSpec().Annotations)
		maps.Copy(out, dev.Annotations)
	}
	return out
}

func (d *Devices) autoAllowed(r *registry, name string) bool {
	kind, _, _ := strings.Cut(name, "=")
	if slices.Contains(d.opt.AutoAllowed, name) || slices.Contains(d.opt.AutoAllowed, kind) {
		return true
	}
	yes, err := strconv.ParseBool(annotations(r.devices[name])[autoAllowAnnotation])
	return err == nil && yes
}

// Inject implements executor.Devices: it adds nodes, mounts, variables, groups and hooks.
func (d *Devices) Inject(spec *executor.Spec, names []string) (done func(), err error) {
	var edits specs.Spec
	if err := d.load().inject(&edits, names); err != nil {
		return nil, fmt.Errorf("adding devices %s: %w", strings.Join(names, ", "), err)
	}
	spec.Hooks = slices.Concat(spec.Hooks, hooks(edits.Hooks))
	if edits.Process != nil {
		spec.Process.Env = setEnv(spec.Process.Env, edits.Process.Env)
		for _, g := range edits.Process.User.AdditionalGids {
			spec.Process.AddGroups = append(spec.Process.AddGroups, strconv.FormatUint(uint64(g), 10))
		}
	}
	addNodes(spec, edits.Linux)
	return addMounts(spec, edits.Mounts)
}

// hooks are the programs that are to be run for the sandbox, each once: several devices of a kind have the same.
func hooks(all *specs.Hooks) []executor.Hook {
	if all == nil {
		return nil
	}
	var out []executor.Hook
	for _, stage := range []struct {
		name executor.HookStage
		list []specs.Hook
	}{
		{executor.Prestart, all.Prestart}, //nolint:staticcheck // deprecated, but there are descriptions that have it
		{executor.CreateRuntime, all.CreateRuntime},
		{executor.CreateContainer, all.CreateContainer},
		{executor.StartContainer, all.StartContainer},
		{executor.Poststart, all.Poststart},
		{executor.Poststop, all.Poststop},
	} {
		for _, h := range stage.list {
			hook := executor.Hook{Stage: stage.name, Path: h.Path, Args: h.Args, Env: h.Env}
			if h.Timeout != nil {
				hook.Timeout = time.Duration(*h.Timeout) * time.Second
			}
			if !slices.ContainsFunc(out, func(o executor.Hook) bool { return reflect.DeepEqual(o, hook) }) {
				out = append(out, hook)
			}
		}
	}
	return out
}

// setEnv returns env with the entries of more, in place of those of the same name.
func setEnv(env, more []string) []string {
	named := make(map[string]bool, len(more))
	for _, kv := range more {
		name, _, _ := strings.Cut(kv, "=")
		named[name] = true
	}
	kept := slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return named[name]
	})
	return append(kept, more...)
}

// addNodes adds the device nodes of l.
func addNodes(spec *executor.Spec, l *specs.Linux) {
	if l == nil {
		return
	}
	for _, n := range l.Devices {
		dev := executor.Device{Path: n.Path, Type: n.Type, Major: n.Major, Minor: n.Minor, Mode: 0o666, Access: access(l, &n)}
		if n.FileMode != nil {
			dev.Mode = uint32(n.FileMode.Perm())
		}
		if n.UID != nil {
			dev.UID = *n.UID
		}
		if n.GID != nil {
			dev.GID = *n.GID
		}
		spec.Devices = append(spec.Devices, dev)
	}
}

// access is what the rules of l say of a node.
func access(l *specs.Linux, n *specs.LinuxDevice) string {
	if l.Resources != nil {
		for _, r := range l.Resources.Devices {
			same := r.Allow && r.Type == n.Type && r.Major != nil && r.Minor != nil && *r.Major == n.Major && *r.Minor == n.Minor
			if same && r.Access != "" {
				return r.Access
			}
		}
	}
	return "rwm"
}
