package cdi

import "github.com/boxbuild/boxbuild/executor"

// A Device is one that builds can name, with what its description says of it.
type Device struct {
	executor.NamedDevice
	Annotations map[string]string
}

// List returns all devices, by name.
func (d *Devices) List() ([]Device, error) {
	cache, err := d.load()
	if err != nil {
		return nil, err
	}
	var out []Device
	for _, n := range cache.ListDevices() {
		out = append(out, Device{
			NamedDevice: executor.NamedDevice{Name: n, AutoAllowed: d.autoAllowed(cache, n)},
			Annotations: annotations(cache.GetDevice(n)),
		})
	}
	return out, nil
}
