package main

import (
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
)

// A namedContext is a --build-context.
type namedContext struct {
	name  string // as a Dockerfile's names are looked up: familiar, without ":latest"
	value string
}

// namedContexts reads --build-context NAME[::PLATFORM]=VALUE, in the order of their first mention; a later one takes the place of
// an earlier one of its name. A name that no FROM or --from can mean is an error, since the context would silently be of no use.
func namedContexts(flags []string) ([]namedContext, error) {
	var out []namedContext
	index := make(map[string]int)
	for _, f := range flags {
		key, value, ok := strings.Cut(f, "=")
		if !ok || key == "" || value == "" {
			return nil, usagef("invalid --build-context %q: expected name=value", f)
		}
		name, err := contextName(key)
		if err != nil {
			return nil, usagef("invalid --build-context %q: %v", f, err)
		}
		i, ok := index[name]
		if !ok {
			i = len(out)
			index[name] = i
			out = append(out, namedContext{name: name})
		}
		out[i].value = value
	}
	return out, nil
}

// contextName returns the form of a name of a context, with its platform if there is one, that the daemon looks up.
func contextName(key string) (string, error) {
	name, platform, hasPlatform := strings.Cut(key, "::")
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		err = fmt.Errorf("invalid context name %s: %w", name, err)
		if lower := strings.ToLower(name); lower != name {
			if _, lerr := reference.ParseNormalizedNamed(lower); lerr == nil {
				err = fmt.Errorf("%w (did you mean %s?)", err, lower)
			}
		}
		return "", err
	}
	name = strings.TrimSuffix(reference.FamiliarString(ref), ":latest")
	if !hasPlatform {
		return name, nil
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return "", fmt.Errorf("invalid platform of context %s: %w", name, err)
	}
	return name + "::" + platforms.FormatAll(platforms.Normalize(p)), nil
}
