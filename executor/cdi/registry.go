package cdi

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// A registry is what the files described when they were read. The library has one too, but reads all files or none: its
// version 1.1.0 panics where a kind has a class of one letter, and would take the devices of every other file with it.
type registry struct {
	devices map[string]*cdi.Device // by qualified name
	errors  map[string][]error     // what is wrong with a file or directory, by path
}

// read reads the files in dirs. What a later directory describes takes the place of what an earlier one does; of a device
// that two files of a directory describe, neither counts.
func read(dirs []string) *registry {
	r := &registry{devices: make(map[string]*cdi.Device), errors: make(map[string][]error)}
	for priority, dir := range dirs {
		entries, err := os.ReadDir(dir) // sorted
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.errors[dir] = append(r.errors[dir], err)
		}
		found, conflicts := make(map[string]*cdi.Device), make(map[string]bool)
		for _, e := range entries {
			file := filepath.Join(dir, e.Name())
			if ext := filepath.Ext(file); ext != ".json" && ext != ".yaml" {
				continue
			}
			described, err := readFile(file, priority)
			if err != nil {
				r.errors[file] = append(r.errors[file], fmt.Errorf("failed to load CDI Spec %w", err)) // docker's words
				continue
			}
			for _, dev := range described {
				name := dev.GetQualifiedName()
				if other := found[name]; other != nil {
					r.conflict(name, file, other.GetSpec().GetPath())
					conflicts[name] = true
				}
				found[name] = dev
			}
		}
		maps.Copy(r.devices, found)
		maps.DeleteFunc(r.devices, func(name string, _ *cdi.Device) bool { return conflicts[name] })
	}
	return r
}

func (r *registry) conflict(name, file, other string) {
	err := fmt.Errorf("conflicting device %q (specs %q, %q)", name, file, other)
	r.errors[file] = append(r.errors[file], err)
	r.errors[other] = append(r.errors[other], err)
}

// readFile returns the devices that a file describes, by name. The file is the administrator's, but a mistake in it is no
// reason to panic.
func readFile(file string, priority int) (devices []*cdi.Device, err error) {
	defer func() {
		if r := recover(); r != nil {
			devices, err = nil, fmt.Errorf("failed to parse CDI Spec %q: %v", file, r)
		}
	}()
	// A pipe would never end.
	if fi, err := os.Stat(file); err != nil {
		return nil, err
	} else if fi.IsDir() {
		return nil, nil
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("failed to read CDI Spec %q: not a regular file", file)
	}
	spec, err := cdi.ReadSpec(file, priority)
	if err != nil {
		return nil, err
	}
	for i := range spec.Devices {
		if dev := spec.GetDevice(spec.Devices[i].Name); dev != nil {
			devices = append(devices, dev)
		}
	}
	slices.SortFunc(devices, func(a, b *cdi.Device) int { return cmp.Compare(a.Name, b.Name) })
	return devices, nil
}

// names are those of all devices, sorted.
func (r *registry) names() []string { return slices.Sorted(maps.Keys(r.devices)) }

// inject adds to spec what devices need, and before that, once, what the file needs that they are in.
func (r *registry) inject(spec *specs.Spec, names []string) error {
	var missing []string
	edits := new(cdi.ContainerEdits)
	files := make(map[*cdi.Spec]bool)
	for _, n := range names {
		dev := r.devices[n]
		if dev == nil {
			missing = append(missing, n)
			continue
		}
		if file := dev.GetSpec(); !files[file] {
			files[file] = true
			edits.Append(&cdi.ContainerEdits{ContainerEdits: &file.ContainerEdits})
		}
		edits.Append(&cdi.ContainerEdits{ContainerEdits: &dev.ContainerEdits})
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s is not registered", strings.Join(missing, ", "))
	}
	return edits.Apply(spec)
}
