package run

import (
	"fmt"
	"slices"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// addDevices adds the devices of e to spec. Whether the build may have them was decided before it ran. One that is
// optional and not there is left out with a word to the user. done is to be called when the process has ended.
func (r *Runner) addDevices(step *solver.Step, e *op.Exec, spec *executor.Spec) (done func(), err error) {
	var names []string
	for _, d := range e.Devices {
		var found []executor.NamedDevice
		if r.deps.Devices != nil {
			if found, err = r.deps.Devices.Find(d.Name); err != nil {
				return nil, err
			}
		}
		switch {
		case len(found) == 0 && !d.Optional:
			return nil, fmt.Errorf("required device %q is not registered", d.Name)
		case len(found) == 0:
			step.Log(solver.Stderr, fmt.Appendf(nil, "optional device %q is not registered\n", d.Name))
		}
		for _, f := range found {
			if !slices.Contains(names, f.Name) {
				names = append(names, f.Name)
			}
		}
	}
	if len(names) == 0 {
		return func() {}, nil
	}
	return r.deps.Devices.Inject(spec, names)
}
