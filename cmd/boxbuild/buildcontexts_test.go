package main

import (
	"slices"
	"strings"
	"testing"
)

// Names of contexts are those that the daemon looks up, and what no Dockerfile can mean is refused as buildx does.
func TestNamedContexts(t *testing.T) {
	for flags, want := range map[string][]namedContext{
		"":                     nil,
		"a=x=y":                {{"a", "x=y"}},
		"b=1 a=2 b=3":          {{"b", "3"}, {"a", "2"}},
		"a=1 a:latest=2":       {{"a", "2"}},
		"a:v1=1 a=2":           {{"a:v1", "1"}, {"a", "2"}},
		"docker.io/library/a=": nil,
		"docker.io/library/a=1 docker.io/user/b=2 registry:5000/c:V1=3": {{"a", "1"}, {"user/b", "2"}, {"registry:5000/c:V1", "3"}},
		"a::linux/amd64=1 a::aarch64=2 a::linux/arm64=3":                {{"a::linux/amd64", "1"}, {"a::linux/arm64", "3"}},
	} {
		got, err := namedContexts(strings.Fields(flags))
		if err != nil && !strings.HasSuffix(flags, "a=") {
			t.Errorf("%s: %v", flags, err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", flags, got, want)
		}
	}
	for flag, want := range map[string]string{
		"x":                 `invalid --build-context "x": expected name=value`,
		"=x":                "expected name=value",
		"x=":                "expected name=value",
		"Assets=.":          "invalid context name Assets: invalid reference format: repository name (library/Assets) must be lowercase (did you mean assets?)",
		"a b=.":             "invalid context name a b: invalid reference format",
		"A*=.":              "invalid context name A*: invalid reference format: repository name (library/A*) must be lowercase",
		"-x=.":              "invalid context name -x: invalid reference format",
		"a:=.":              "invalid context name a:: invalid reference format",
		"::linux/amd64=.":   "invalid context name : invalid reference format",
		"a::b/c/d/e/f=.":    "invalid platform of context a: ",
		"é=docker-image://": "invalid context name é: invalid reference format",
	} {
		_, err := namedContexts([]string{flag})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", flag, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "did you mean") != strings.Contains(want, "did you mean") {
			t.Errorf("%q: got %v, want no suggestion", flag, err)
		}
	}
}
