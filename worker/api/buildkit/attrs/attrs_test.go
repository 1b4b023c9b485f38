package attrs

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/errdefs"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// TestParse checks that every attribute reaches its field of the request.
func TestParse(t *testing.T) {
	b, err := Parse(map[string]string{
		"target": "prod", "filename": "x/Dockerfile.dev", "cgroup-parent": "/cg", "hostname": "h",
		"build-arg:A": "1", "label:l": "v", "context:base::linux/arm64": "docker-image://x", "unknown": "is ignored",
		"platform": "linux/arm64,linux/amd64", "multi-platform": "true", "no-cache": "a,b", "image-resolve-mode": "pull",
		"force-network-mode": "host", "add-hosts": "One=1.2.3.4,two=::1,gw=host-gateway", "ulimit": "nofile=1:2,core=3", "shm-size": "99",
		"memory": "10", "memswap": "-1", "cpushares": "2", "cpuperiod": "3", "cpuquota": "4", "cpusetcpus": "0-1,3", "cpusetmems": "0",
		"local-sessionid:context": "other", "sharedkey:localdir:base": "k", "input-metadata:in": "{}",
		"frontend.caps": "moby.buildkit.frontend.contexts,some.other+forward",
		"cache-imports": `[{"Type":"gha","Attrs":{"scope":"s"}}]`, "cache-from": "r/a,r/b",
		"attest:sbom": "generator=g,K=V", "attest:provenance": "mode=max", "requestid": "frontend.outline",
	})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want := &Build{
		Request: frontend.Request{
			Context:    &op.Local{Name: "context", SharedKey: "context", Session: "other"},
			Dockerfile: &op.Local{Name: "dockerfile", SharedKey: "dockerfile"},
			Sessions:   map[string]string{"context": "other"},
			SharedKeys: map[string]string{"base": "k"},
			Target:     "prod", Filename: "x/Dockerfile.dev", CgroupParent: "/cg", Hostname: "h",
			BuildArgs: map[string]string{"A": "1"}, Labels: map[string]string{"l": "v"},
			Contexts:  map[string]string{"base::linux/arm64": "docker-image://x"},
			Platforms: []op.Platform{{OS: "linux", Architecture: "arm64"}, {OS: "linux", Architecture: "amd64"}},
			Multi:     &yes, NoCacheStages: []string{"a", "b"}, Pull: true, Network: op.NetworkHost,
			ExtraHosts: []op.HostIP{{Host: "one", IP: "1.2.3.4"}, {Host: "two", IP: "::1"}, {Host: "gw", IP: "host-gateway"}},
			Ulimits:    []op.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}, {Name: "core", Soft: 3, Hard: 3}}, ShmSize: 99,
			Limits: op.ExecLimits{
				Memory: 10, MemorySwap: -1, CPUShares: 2, CPUPeriod: 3, CPUQuota: 4, CPUSetCPUs: "0-1,3", CPUSetMems: "0",
			},
		},
		Call:          frontend.Outline,
		InputMetadata: map[string]string{"in": "{}"},
		CacheImports: []CacheEntry{
			{"gha", map[string]string{"scope": "s"}}, {"registry", map[string]string{"ref": "r/a"}}, {"registry", map[string]string{"ref": "r/b"}},
		},
		Attestations: map[string]map[string]string{
			"sbom": {"generator": "g", "K": "V"}, "provenance": {"version": "v1", "mode": "max"},
		},
	}
	if !reflect.DeepEqual(b, want) {
		t.Errorf("got\n%+v\nwant\n%+v", b, want)
	}
}

// TestSources checks where context and Dockerfile come from.
func TestSources(t *testing.T) {
	for name, c := range map[string]struct {
		in                  map[string]string
		context, dockerfile string
		subdir              string
	}{
		"directories": {nil, "local://context", "local://dockerfile", ""},
		"git": {
			map[string]string{"context": "https://example.com/x.git#main", "contextsubdir": "d"},
			"git://example.com/x.git#main", "git://example.com/x.git#main", "d",
		},
		"upload":           {map[string]string{"context": "http://buildkit-session/x"}, "http://buildkit-session/x", "http://buildkit-session/x", ""},
		"other key":        {map[string]string{"contextkey": "c", "c": "http://h/x"}, "http://h/x", "http://h/x", ""},
		"local Dockerfile": {map[string]string{"context": "http://h/x", "dockerfilekey": "df"}, "http://h/x", "local://df", ""},
		"no address":       {map[string]string{"context": "nothing"}, "local://context", "local://dockerfile", ""},
		"subdir of a directory means nothing": {
			map[string]string{"contextsubdir": "d"}, "local://context", "local://dockerfile", "",
		},
	} {
		b, err := Parse(c.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r := b.Request
		if !strings.Contains(r.Context.String(), strings.TrimPrefix(c.context, "git://")) || r.Dockerfile.String() != r.Context.String() && r.Dockerfile.String() != c.dockerfile || r.ContextSubdir != c.subdir {
			t.Errorf("%s: got %s, %s and %q, want %s, %s and %q", name, r.Context, r.Dockerfile, r.ContextSubdir, c.context, c.dockerfile, c.subdir)
		}
	}
}

// TestNoCache checks that an empty value means all, and no value nothing.
func TestNoCache(t *testing.T) {
	for _, c := range []struct {
		in     map[string]string
		all    bool
		stages []string
	}{
		{nil, false, nil},
		{map[string]string{"no-cache": ""}, true, nil},
		{map[string]string{"no-cache": "x"}, false, []string{"x"}},
	} {
		b, err := Parse(c.in)
		if err != nil || b.Request.NoCache != c.all || !slices.Equal(b.Request.NoCacheStages, c.stages) {
			t.Errorf("%v: got %v, %q, %v", c.in, b.Request.NoCache, b.Request.NoCacheStages, err)
		}
	}
}

// TestTwice checks that a platform that is asked for twice is warned of, however it is written.
func TestTwice(t *testing.T) {
	for platform, want := range map[string]int{
		"linux/amd64": 0, "linux/amd64,linux/arm64": 0, "linux/amd64,linux/amd64": 1, "linux/arm/v6,linux/arm/v7": 0,
		"linux/arm64,linux/arm64/v8,linux/arm64": 2,
	} {
		b, err := Parse(map[string]string{"platform": platform})
		if err != nil || len(b.Warnings) != want || len(b.Request.Platforms) != strings.Count(platform, ",")+1 {
			t.Errorf("%s: got %v, %v, the platforms %v", platform, b.Warnings, err, b.Request.Platforms)
		}
	}
}

// TestErrors checks that what is wrong is said in BuildKit's words.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ key, value, want string }{
		{"override-copy-image", "x", `support for "override-copy-image" was removed in BuildKit 0.11`},
		{"platform", "a/b/c/d/e", "failed to parse target platform a/b/c/d/e"},
		{"multi-platform", "perhaps", "invalid boolean value for multi-platform: perhaps"},
		{"image-resolve-mode", "guess", "invalid image-resolve-mode: guess"},
		{"force-network-mode", "pigeon", "invalid netmode pigeon"},
		{"add-hosts", "x", "failed to parse additional hosts: invalid key-value pair x"},
		{"add-hosts", "x=y", "failed to parse additional hosts: failed to parse IP y"},
		{"shm-size", "big", "failed to parse shm size"},
		{"ulimit", "x", "failed to parse ulimit"},
		{"memory", "0", "invalid memory value: 0: must be > 0"},
		{"memswap", "-2", "invalid memswap value: -2: must be -1 (unlimited) or > 0"},
		{"cpuquota", "x", "invalid cpuquota value: x"},
		{"cpusetcpus", "3-1", "invalid cpusetcpus value: 3-1"},
		{"cpusetmems", "9999999999", "invalid cpusetmems value"},
		{"cache-imports", "{", "failed to unmarshal cache-imports"},
		{"attest:horoscope", "", `unknown attestation type "horoscope"`},
		{"attest:sbom", `"`, "failed to parse sbom"},
	} {
		_, err := Parse(map[string]string{c.key: c.value})
		var use *frontend.UsageError
		if !errors.As(err, &use) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: got %v, want %q", c.key, c.value, err, c.want)
		}
	}
}

// TestCalls checks the typed errors for what the frontend has not, and the list of calls.
func TestCalls(t *testing.T) {
	var call *errdefs.UnsupportedSubrequestError
	if _, err := Parse(map[string]string{"requestid": "frontend.x"}); !errors.As(err, &call) || call.Name != "frontend.x" {
		t.Errorf("got %v", err)
	}
	var missing *errdefs.UnsupportedFrontendCapError
	if _, err := Parse(map[string]string{"frontend.caps": "a.b"}); !errors.As(err, &missing) || missing.Name != "a.b" {
		t.Errorf("got %v", err)
	}
	if b, err := Parse(map[string]string{"requestid": describe}); err != nil || !b.Describe {
		t.Errorf("got %+v, %v", b, err)
	}
}

// FuzzParse checks that no attributes are a crash, and that equal ones are read alike.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"platform=linux/amd64", "add-hosts=a=1.1.1.1\nulimit=a=1", "context=git@x:y#z:w", "attest:sbom=\"a\",b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		in := map[string]string{}
		for line := range strings.SplitSeq(text, "\n") {
			k, v, _ := strings.Cut(line, "=")
			in[k] = v
		}
		was := maps.Clone(in)
		a, errA := Parse(in)
		b, errB := Parse(in)
		if !reflect.DeepEqual(a, b) || (errA == nil) != (errB == nil) {
			t.Errorf("%q: once %+v, %v, then %+v, %v", text, a, errA, b, errB)
		}
		if !maps.Equal(in, was) {
			t.Errorf("%q: the attributes were changed", text)
		}
	})
}
