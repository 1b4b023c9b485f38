package container

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// A gpuDriver serves requests for GPUs of one vendor, as docker's device driver of that name does.
type gpuDriver struct {
	name string
	kind string   // of its devices, where they are described
	caps []string // what can be asked for
	// Where they are not: the program which shows that the vendor's own runtime is installed, the variable that it reads, and
	// whether it is run as a hook.
	program, variable string
	hook              bool
}

// gpuDrivers are those there can be, in the order in which they are asked.
var gpuDrivers = []gpuDriver{
	{
		name: "nvidia", kind: "nvidia.com/gpu", caps: append([]string{"gpu", "nvidia"}, nvidiaCaps...),
		program: "nvidia-container-runtime-hook", variable: "NVIDIA_VISIBLE_DEVICES", hook: true,
	},
	{
		name: "amd", kind: "amd.com/gpu", caps: []string{"gpu", "amd"},
		program: "amd-container-runtime", variable: "AMD_VISIBLE_DEVICES",
	},
}

// nvidiaCaps are the capabilities that NVIDIA's hook takes.
var nvidiaCaps = []string{"compute", "compat32", "graphics", "utility", "video", "display"}

// requested adds to spec what a container has asked for. done is to be called when the container has been made. Whoever asks
// for a device must not get a container without it.
func (m *Manager) requested(spec *executor.Spec, list []container.DeviceRequest) (done func(), err error) {
	var names []string
	for i := range list {
		more, err := m.request(spec, &list[i])
		if err != nil {
			return nil, err
		}
		for _, n := range more {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	if len(names) == 0 {
		return func() {}, nil
	}
	if err := m.described(names); err != nil {
		return nil, err
	}
	done, err = m.deps.Devices.Inject(spec, names)
	if err != nil {
		return nil, fmt.Errorf("CDI device injection failed: %w", err)
	}
	return done, nil
}

// described refuses devices that have no description.
func (m *Manager) described(names []string) error {
	var lost []string
	for _, n := range names {
		found, err := m.deps.Devices.Find(n)
		if err != nil {
			return fmt.Errorf("CDI device injection failed: %w", err)
		}
		if len(found) != 1 || found[0].Name != n {
			lost = append(lost, n)
		}
	}
	if lost != nil {
		return worker.Invalidf("CDI device injection failed: unresolvable CDI devices %s", strings.Join(lost, ", "))
	}
	return nil
}

// request returns the names of the devices that r asks for.
func (m *Manager) request(spec *executor.Spec, r *container.DeviceRequest) ([]string, error) {
	if r.Driver == "cdi" && m.deps.Devices != nil {
		switch {
		case r.Count != 0:
			return nil, worker.Invalidf("unexpected count in CDI device request")
		case len(r.Options) > 0:
			return nil, worker.Invalidf("unexpected options in CDI device request")
		}
		return r.DeviceIDs, nil
	}
	for i := range gpuDrivers {
		d := &gpuDrivers[i]
		if r.Driver != "" && r.Driver != d.name {
			continue
		}
		caps := d.match(r.Capabilities)
		if caps == nil {
			continue
		}
		there, names, err := m.gpus(spec, d, caps, r)
		if there || err != nil {
			return names, err
		}
	}
	return nil, worker.Invalidf("could not select device driver %q with capabilities: %v", r.Driver, r.Capabilities)
}

// match returns the first of some lists of capabilities that d has all of, else nil.
func (d *gpuDriver) match(lists [][]string) []string {
	for _, all := range lists {
		if !slices.ContainsFunc(all, func(c string) bool { return !slices.Contains(d.caps, c) }) {
			return slices.Concat([]string{}, all)
		}
	}
	return nil
}

// gpus says whether d is there, and if so returns the names of the devices that r asks for, or has the vendor's runtime find
// them. A description comes first: it says all that has to be done.
func (m *Manager) gpus(spec *executor.Spec, d *gpuDriver, caps []string, r *container.DeviceRequest) (there bool, names []string, err error) {
	if m.deps.Devices != nil {
		found, err := m.deps.Devices.Find(d.kind)
		if err != nil {
			return false, nil, fmt.Errorf("looking for GPUs: %w", err)
		}
		there = slices.ContainsFunc(found, func(n executor.NamedDevice) bool { return strings.HasPrefix(n.Name, d.kind+"=") })
	}
	program := ""
	if !there {
		if program, err = exec.LookPath(d.program); err != nil {
			return false, nil, nil
		}
	}
	ids, err := gpuIDs(r)
	switch {
	case err != nil:
		return true, nil, err
	case there:
		for _, id := range ids {
			if !strings.Contains(id, "=") {
				id = d.kind + "=" + id
			}
			names = append(names, id)
		}
		return true, names, nil
	}
	d.ask(spec, program, ids, caps)
	return true, nil, nil
}

// ask has the vendor's own runtime give spec its devices.
func (d *gpuDriver) ask(spec *executor.Spec, program string, ids, caps []string) {
	visible := "void"
	if len(ids) > 0 {
		visible = strings.Join(ids, ",")
	}
	env := []string{d.variable + "=" + visible}
	if d.hook {
		caps = slices.DeleteFunc(caps, func(c string) bool { return !slices.Contains(nvidiaCaps, c) })
		if len(caps) > 0 {
			env = append(env, "NVIDIA_DRIVER_CAPABILITIES="+strings.Join(caps, ","))
		}
		spec.Hooks = append(spec.Hooks, executor.Hook{Stage: executor.Prestart, Path: program, Args: []string{d.program, "prestart"}})
	}
	spec.Process.Env = replaceEnv(spec.Process.Env, env)
}

// gpuIDs are the devices of a request: those that it names, the first so many, or all.
func gpuIDs(r *container.DeviceRequest) ([]string, error) {
	switch {
	case r.Count != 0 && len(r.DeviceIDs) > 0:
		return nil, worker.Invalidf("cannot set both Count and DeviceIDs on device request")
	case r.Count < 0:
		return []string{"all"}, nil
	}
	ids := slices.Clone(r.DeviceIDs)
	for i := range r.Count {
		ids = append(ids, strconv.Itoa(i))
	}
	return ids, nil
}
