package dockerfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// vars is a set of variables in the order in which they were last set. It implements shell.EnvGetter.
type vars struct {
	names  []string
	values map[string]string
	list   []string // "name=value", made when asked for; steps share it until a variable changes
}

var _ shell.EnvGetter = (*vars)(nil)

func newVars() *vars { return &vars{values: map[string]string{}} }

// Get implements shell.EnvGetter.
func (v *vars) Get(name string) (string, bool) {
	val, ok := v.values[name]
	return val, ok
}

// Keys implements shell.EnvGetter.
func (v *vars) Keys() []string { return v.names }

// set sets a variable, which becomes the last one. A value that no process could be given is an error.
func (v *vars) set(name, value string) error {
	if len(value) > maxValue {
		return fmt.Errorf("the value of %s has %d bytes; at most %d are allowed", name, len(value), maxValue)
	}
	if old, ok := v.values[name]; ok {
		if v.names[len(v.names)-1] == name && old == value {
			return nil
		}
		i := slices.Index(v.names, name)
		v.names = slices.Delete(slices.Clone(v.names), i, i+1)
	}
	v.names = append(v.names, name)
	v.values[name] = value
	v.list = nil
	return nil
}

// clone returns a copy that changes on its own.
func (v *vars) clone() *vars {
	c := &vars{names: slices.Clip(v.names), values: make(map[string]string, len(v.values)), list: v.list}
	for name, val := range v.values {
		c.values[name] = val
	}
	return c
}

// size returns about how many bytes a copy takes.
func (v *vars) size() int { return 48 * len(v.names) }

// environ returns the variables as "name=value". The slice must not be changed.
func (v *vars) environ() []string {
	if v.list == nil {
		v.list = make([]string, len(v.names))
		for i, name := range v.names {
			v.list[i] = name + "=" + v.values[name]
		}
	}
	return v.list
}

// cutEnv splits "name=value".
func cutEnv(s string) (name, value string) {
	name, value, _ = strings.Cut(s, "=")
	return name, value
}

// setEnv sets a variable in the environment of an image's configuration, where it keeps its place.
func setEnv(env []string, name, value string) []string {
	for i, kv := range env {
		if k, _ := cutEnv(kv); shell.EqualEnvKeys(k, name) {
			env = slices.Clone(env)
			env[i] = name + "=" + value
			return env
		}
	}
	return append(slices.Clip(env), name+"="+value)
}
