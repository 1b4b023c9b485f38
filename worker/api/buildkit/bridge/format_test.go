package bridge

import (
	"reflect"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/attrs"
)

// TestFormat checks that a request which is written as attributes is the same when it is read again.
func TestFormat(t *testing.T) {
	yes := true
	for name, req := range map[string]frontend.Request{
		"nothing": {},
		"everything": {
			Filename: "File", Target: "t", Hostname: "h", CgroupParent: "/c",
			BuildArgs: map[string]string{"a": "b=c"}, Labels: map[string]string{"l": "m"}, Contexts: map[string]string{"x": "docker-image://y"},
			Sessions:  map[string]string{"x": "other"},
			Platforms: []op.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}, Multi: &yes,
			NoCacheStages: []string{"one", "two"}, Pull: true, Network: op.NetworkHost,
			ExtraHosts: []op.HostIP{{Host: "a", IP: "1.2.3.4"}, {Host: "b", IP: "::1"}}, ShmSize: 5,
			Ulimits: []op.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}, Limits: op.ExecLimits{Memory: 7, CPUSetCPUs: "0"},
		},
		"no cache": {NoCache: true},
		"local":    {PreferLocal: true, SharedKeys: map[string]string{"x": "key"}},
	} {
		parsed, err := attrs.Parse(format(&req, frontend.Build))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := parsed.Request
		got.Context, got.Dockerfile, got.Attrs = nil, nil, nil
		for _, m := range []*map[string]string{&got.BuildArgs, &got.Labels, &got.Contexts, &got.Sessions, &got.SharedKeys} {
			if len(*m) == 0 {
				*m = nil
			}
		}
		if !reflect.DeepEqual(got, req) {
			t.Errorf("%s: got  %+v\nwant %+v", name, got, req)
		}
	}
}

// TestFormatSources checks what is said of where context and Dockerfile come from.
func TestFormatSources(t *testing.T) {
	for _, tc := range []struct {
		req  frontend.Request
		key  string
		want string
	}{
		{frontend.Request{Context: &op.Git{Remote: "https://x/y.git", Ref: "main", Subdir: "d"}}, "context", "https://x/y.git#main:d"},
		{frontend.Request{Context: &op.Git{Remote: "https://x/y.git"}}, "context", "https://x/y.git"},
		{frontend.Request{Context: &op.HTTP{URL: "https://x/y.tar"}}, "context", "https://x/y.tar"},
		{frontend.Request{Context: &op.Local{Name: "context"}}, "context", ""},
		{frontend.Request{Dockerfile: &op.Local{Name: "other"}}, "dockerfilekey", "other"},
		{frontend.Request{Dockerfile: &op.Local{Name: "dockerfile"}}, "dockerfilekey", ""},
		{frontend.Request{Attrs: map[string]string{"own": "words"}, Target: "t"}, "own", "words"},
		{frontend.Request{Attrs: map[string]string{"own": "words"}, Target: "t"}, "target", ""},
	} {
		if got := format(&tc.req, frontend.Build)[tc.key]; got != tc.want {
			t.Errorf("%+v: %s is %q, want %q", tc.req, tc.key, got, tc.want)
		}
	}
	if got := format(&frontend.Request{}, frontend.Outline)["requestid"]; got != "frontend.outline" {
		t.Errorf("the request is %q", got)
	}
}
