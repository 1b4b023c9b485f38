package worker

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Filters are those of docker's lists: key to the values asked for. Values of one key are alternatives, except labels, which
// all have to be there; keys all have to match.
type Filters map[string][]string

// ParseFilters reads the filters of a request to the Engine API: a JSON object of lists or, as clients before 1.22 wrote
// them, of objects whose keys are the values. An empty string is no filter.
func ParseFilters(s string) (Filters, error) {
	if s == "" {
		return nil, nil
	}
	var lists map[string][]string
	if err := json.Unmarshal([]byte(s), &lists); err == nil {
		return lists, nil
	}
	var sets map[string]map[string]bool
	if err := json.Unmarshal([]byte(s), &sets); err != nil {
		return nil, Invalidf("invalid filter: %q is no JSON object of lists", s)
	}
	f := make(Filters, len(sets))
	for key, values := range sets {
		for _, v := range slices.Sorted(maps.Keys(values)) {
			if values[v] {
				f[key] = append(f[key], v)
			}
		}
	}
	return f, nil
}

// Check refuses keys that are not among those given.
func (f Filters) Check(known ...string) error {
	for _, key := range slices.Sorted(maps.Keys(f)) {
		if !slices.Contains(known, key) {
			return Invalidf("invalid filter '%s'", key)
		}
	}
	return nil
}

// Match says whether value is one of those asked for under key, or nothing is asked for.
func (f Filters) Match(key, value string) bool {
	return len(f[key]) == 0 || slices.Contains(f[key], value)
}

// Contains is Match for values that are parts of value.
func (f Filters) Contains(key, value string) bool {
	return len(f[key]) == 0 || slices.ContainsFunc(f[key], func(part string) bool { return strings.Contains(value, part) })
}

// Labels says whether all labels asked for under "label" are there, and none of those under "label!". Each is a name, or a
// name and a value with "=" between.
func (f Filters) Labels(labels map[string]string) bool {
	has := func(want string) bool {
		name, value, exact := strings.Cut(want, "=")
		have, ok := labels[name]
		return ok && (!exact || have == value)
	}
	for _, want := range f["label"] {
		if !has(want) {
			return false
		}
	}
	return !slices.ContainsFunc(f["label!"], has)
}

// Bool returns the one truth value of key, or def if nothing is asked for.
func (f Filters) Bool(key string, def bool) (bool, error) {
	values := f[key]
	if len(values) == 0 {
		return def, nil
	}
	b, err := strconv.ParseBool(values[0])
	if err != nil || slices.ContainsFunc(values[1:], func(v string) bool { return v != values[0] }) {
		return false, Invalidf("invalid filter '%s=%s'", key, strings.Join(values, "', '"+key+"="))
	}
	return b, nil
}
