package builder

import (
	"fmt"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
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
// have what g does not grant. The cache mounts of those that are to run without the cache are emptied.
func (b *Builder) admit(targets []solver.Input, g *frontend.Grants) error {
	var fresh []*op.Exec
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
		e, ok := v.Op().(*op.Exec)
		if !ok {
			continue
		}
		if err := b.permit(e, g); err != nil {
			return &solver.VertexError{Vertex: v, Err: err}
		}
		if v.Meta().IgnoreCache {
			fresh = append(fresh, e)
		}
	}
	return b.deps.Runner.PruneCaches(fresh)
}

// permit returns an error if e is to have what g does not grant.
func (b *Builder) permit(e *op.Exec, g *frontend.Grants) error {
	switch {
	case e.Network == op.NetworkHost && !g.NetworkHost:
		return frontend.NotAllowed(frontend.EntitlementNetworkHost)
	case e.Security == op.SecurityInsecure && !g.Insecure:
		return frontend.NotAllowed(frontend.EntitlementInsecure)
	case len(e.Devices) == 0 || g.AllDevices:
		return nil
	}
	granted := make(map[string]bool)
	for name, target := range g.Devices {
		if target != "" {
			name = target
		}
		found, err := b.devices(name)
		if err != nil {
			return err
		}
		for _, d := range found {
			granted[d.Name] = true
		}
	}
	// What is missing is an error even if the step is in the cache, and before what is not allowed, as with BuildKit.
	var refused []string
	for _, x := range e.Devices {
		found, err := b.devices(x.Name)
		if err != nil {
			return err
		}
		if len(found) == 0 && !x.Optional {
			return fmt.Errorf("required device %q is not registered", x.Name)
		}
		for _, d := range found {
			if !granted[d.Name] && !d.AutoAllowed {
				refused = append(refused, d.Name)
			}
		}
	}
	switch len(refused) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("device %s is requested by the build but not allowed", refused[0])
	}
	return fmt.Errorf("devices %s are requested by the build but not allowed", strings.Join(refused, ", "))
}

// devices returns those that name stands for.
func (b *Builder) devices(name string) ([]executor.NamedDevice, error) {
	if b.deps.Devices == nil {
		return nil, nil
	}
	return b.deps.Devices.Find(name)
}
