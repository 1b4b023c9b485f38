package dockerfile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// vars is a set of variables in the order in which they were last set. It implements shell.EnvGetter.
type vars struct {
	set    map[string]variable
	clock  int      // grows with each change
	names  []string // in order; nil after a change
	values []string // "name=value", in order; nil after a change. Steps share it until a variable changes
}

// A variable is a value with the time at which it was set.
type variable struct {
	text string // "name=value"
	time int
}

var _ shell.EnvGetter = (*vars)(nil)

func newVars() *vars { return &vars{set: map[string]variable{}} }

// Get implements shell.EnvGetter.
func (v *vars) Get(name string) (string, bool) {
	x, ok := v.set[name]
	if !ok {
		return "", false
	}
	return x.text[len(name)+1:], true
}

// Keys implements shell.EnvGetter.
func (v *vars) Keys() []string {
	v.order()
	return v.names
}

// put sets a variable, which becomes the last one. A value that no process could be given is an error.
func (v *vars) put(name, value string) error {
	if len(value) > maxValue {
		return fmt.Errorf("the value of %s has %d bytes; at most %d are allowed", name, len(value), maxValue)
	}
	v.clock++
	v.set[name] = variable{text: name + "=" + value, time: v.clock}
	v.names, v.values = nil, nil
	return nil
}

// drop removes a variable, if it is there.
func (v *vars) drop(name string) {
	delete(v.set, name)
	v.names, v.values = nil, nil
}

// clone returns a copy that changes on its own.
func (v *vars) clone() *vars {
	return &vars{set: maps.Clone(v.set), clock: v.clock, names: v.names, values: v.values}
}

// size returns about how many bytes a copy takes.
func (v *vars) size() int { return 64 * len(v.set) }

// environ returns the variables as "name=value". The slice must not be changed.
func (v *vars) environ() []string {
	v.order()
	return v.values
}

// order fills names and values.
func (v *vars) order() {
	if v.names != nil || len(v.set) == 0 {
		return
	}
	names := slices.SortedFunc(maps.Keys(v.set), func(a, b string) int { return cmp.Compare(v.set[a].time, v.set[b].time) })
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = v.set[name].text
	}
	v.names, v.values = names, values
}

// cutEnv splits "name=value".
func cutEnv(s string) (name, value string) {
	name, value, _ = strings.Cut(s, "=")
	return name, value
}
