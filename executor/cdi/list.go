package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/boxbuild/boxbuild/executor"
)

// A Device is one that builds can name, with what its description says of it.
type Device struct {
	executor.NamedDevice
	Annotations map[string]string
}

// Enabled says whether there can be devices.
func (d *Devices) Enabled() bool { return !d.opt.Disabled }

// Dirs are the directories with descriptions, which need not exist.
func (d *Devices) Dirs() []string { return slices.Clone(d.opt.Dirs) }

// List returns all devices, by name.
func (d *Devices) List() ([]Device, error) {
	list, _, err := d.Survey()
	return list, err
}

// Survey returns all devices, by name, and what is wrong with files in docker's words.
func (d *Devices) Survey() (list []Device, problems []string, err error) {
	r := d.load()
	for _, n := range r.names() {
		list = append(list, Device{
			NamedDevice: executor.NamedDevice{Name: n, AutoAllowed: d.autoAllowed(r, n)},
			Annotations: annotations(r.devices[n]),
		})
	}
	for _, file := range slices.Sorted(maps.Keys(r.errors)) {
		for _, e := range r.errors[file] {
			if !errors.Is(e, fs.ErrNotExist) {
				problems = append(problems, fmt.Sprintf("CDI: Error associated with spec file %s: %v", file, e))
			}
		}
	}
	return list, problems, nil
}
