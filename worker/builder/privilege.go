package builder

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// grants are what a build may do: what it asks for, all of which the daemon has to allow.
func (b *Builder) grants(asked []string) (*frontend.Grants, error) {
	g, err := frontend.ParseGrants(asked)
	if err != nil {
		return nil, err
	}
	allowed, err := frontend.ParseGrants(b.deps.Entitlements)
	if err != nil {
		return nil, fmt.Errorf("reading the daemon's entitlements: %w", err)
	}
	return g, g.Within(allowed)
}

// admit looks at every process that the targets need before anything runs, whatever frontend they come from: none may
// have what g does not grant. The operations that it returns are to take the places of those of their vertices: they name
// the devices that there are, so that a step is another one when a device has come or gone.
func (b *Builder) admit(targets []solver.Input, g *frontend.Grants) (map[*solver.Vertex]solver.Op, error) {
	with := make(map[*solver.Vertex]solver.Op)
	for v, e := range processes(targets) {
		found, err := b.permit(e, g)
		if err != nil {
			return nil, &solver.VertexError{Vertex: v, Err: err}
		}
		if !slices.Equal(found, e.Devices) {
			c := *e
			c.Devices = found
			with[v] = &c
		}
	}
	return with, nil
}

// admitOutput is admit for what a frontend has made.
func (b *Builder) admitOutput(out *frontend.Output, g *frontend.Grants) error {
	with, err := b.admit(out.Targets(), g)
	if err != nil || len(with) == 0 {
		return err
	}
	changeInputs(out, func(ins []solver.Input) []solver.Input { return llb.Replace(ins, with) })
	return nil
}

// empty empties the cache mounts of the processes that targets need and that are to run without the cache.
func (b *Builder) empty(targets []solver.Input) error {
	var fresh []*op.Exec
	for v, e := range processes(targets) {
		if v.Meta().IgnoreCache {
			fresh = append(fresh, e)
		}
	}
	return b.deps.Runner.PruneCaches(fresh)
}

// processes are those that targets need.
func processes(targets []solver.Input) iter.Seq2[*solver.Vertex, *op.Exec] {
	return func(yield func(*solver.Vertex, *op.Exec) bool) {
		seen := make(map[*solver.Vertex]bool)
		todo := targets
		for len(todo) > 0 {
			v := todo[len(todo)-1].Vertex
			todo = todo[:len(todo)-1]
			if seen[v] {
				continue
			}
			seen[v] = true
			todo = append(todo[:len(todo):len(todo)], v.Inputs()...)
			if e, ok := v.Op().(*op.Exec); ok && !yield(v, e) {
				return
			}
		}
	}
}

// permit returns an error if e is to have what g does not grant, and else the devices of e as they are to be looked for
// when it runs: by their own names, but for those that there are not.
func (b *Builder) permit(e *op.Exec, g *frontend.Grants) ([]op.ExecDevice, error) {
	switch {
	case e.Network == op.NetworkHost && !g.NetworkHost:
		return nil, frontend.NotAllowed(frontend.EntitlementNetworkHost)
	case e.Security == op.SecurityInsecure && !g.Insecure:
		return nil, frontend.NotAllowed(frontend.EntitlementInsecure)
	case len(e.Devices) == 0:
		return e.Devices, nil
	}
	granted, err := b.granted(g)
	if err != nil {
		return nil, err
	}
	// What is missing is an error even if the step is in the cache, and before what is not allowed, as with BuildKit.
	var out []op.ExecDevice
	var refused []string
	add := func(d op.ExecDevice) {
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	for _, x := range e.Devices {
		if real := g.Devices[x.Name]; real != "" {
			x.Name = real // the user's own word for it
		}
		found, err := b.devices(x.Name)
		switch {
		case err != nil:
			return nil, err
		case len(found) == 0 && !x.Optional && !g.AllDevices:
			return nil, fmt.Errorf("required device %q is not registered", x.Name)
		case len(found) == 0:
			add(x) // the step says so, if it runs
		}
		for _, d := range found {
			add(op.ExecDevice{Name: d.Name})
			if !g.AllDevices && !granted[d.Name] && !d.AutoAllowed && !slices.Contains(refused, d.Name) {
				refused = append(refused, d.Name)
			}
		}
	}
	switch len(refused) {
	case 0:
		return out, nil
	case 1:
		return nil, fmt.Errorf("device %s is requested by the build but not allowed", refused[0])
	}
	return nil, fmt.Errorf("devices %s are requested by the build but not allowed", strings.Join(refused, ", "))
}

// granted are the names of the devices that g names.
func (b *Builder) granted(g *frontend.Grants) (map[string]bool, error) {
	names := make(map[string]bool)
	for name, target := range g.Devices {
		found, err := b.devices(cmp.Or(target, name))
		if err != nil {
			return nil, err
		}
		for _, d := range found {
			names[d.Name] = true
		}
	}
	return names, nil
}

// devices returns those that name stands for.
func (b *Builder) devices(name string) ([]executor.NamedDevice, error) {
	if b.deps.Devices == nil {
		return nil, nil
	}
	return b.deps.Devices.Find(name)
}
