package buildkit

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
	spb "github.com/moby/buildkit/sourcepolicy/pb"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// TestStepsOfSeveral checks what two builds have in common to a client that shows both, as bake does: no step that a build does
// for itself, so that none is blamed for what happened to another.
func TestStepsOfSeveral(t *testing.T) {
	d := start(t)
	d.load()
	names := [2]map[string]string{}
	for i := range names {
		opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY Dockerfile /\nRUN true\n"})
		var out, second sink
		opt.Exports = []client.ExportEntry{out.to(client.ExporterOCI, nil), second.to(client.ExporterOCI, nil)}
		opt.FrontendAttrs["attest:provenance"] = "mode=max"
		_, p, err := d.solve(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		names[i] = p.names
	}
	common := 0
	for digest, name := range names[0] {
		if names[1][digest] == "" {
			continue
		}
		common++
		if strings.HasPrefix(name, "exporting ") || strings.HasPrefix(name, "[internal]") && !strings.Contains(name, "load metadata for") {
			t.Errorf("%q is a step of both", name)
		}
	}
	if common < 4 { // what is asked, the image, and two steps
		t.Errorf("%v and %v have %d in common", names[0], names[1], common)
	}
}

// TestPartsOfFailed checks that a vertex which has failed has no part that goes on, since clients do not tell its end then:
// of a push, and of a pull of what is corrupt.
func TestPartsOfFailed(t *testing.T) {
	r := registrytest.New(registrytest.Behaviour{})
	host := registrytest.Start(t, r)
	seed(t, r, "salt", tarball(t, map[string]string{"first": "1"}))
	d := start(t)
	for name, c := range map[string]struct {
		fault registrytest.Fault
		file  string
		step  string
	}{
		"push": {registrytest.Fault{Kind: registrytest.Upload, Status: http.StatusUnauthorized}, "FROM scratch\nCOPY Dockerfile /\n", "exporting to image"},
		"pull": {registrytest.Fault{Kind: registrytest.Blob, Method: http.MethodGet, Corrupt: true, After: 1}, "FROM " + host + "/base:1\nRUN true\n", "FROM "},
	} {
		r.Heal()
		r.Fail(c.fault)
		opt := opts(t, map[string]string{"Dockerfile": c.file})
		opt.Exports = []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{"name": host + "/new:1", "push": "true"}}}
		ch, heard := make(chan *client.SolveStatus), make(chan *told, 1)
		go func() { heard <- hear(ch) }()
		_, err := d.c.Solve(t.Context(), nil, opt, ch)
		told := <-heard
		if err == nil {
			t.Errorf("%s: the build succeeded", name)
		}
		failed := false
		for _, v := range told.order {
			failed = failed || v.Error != "" && strings.Contains(v.Name, c.step)
			for _, p := range v.parts {
				if v.Completed != nil && p.Completed == nil {
					t.Errorf("%s: %q is over, and %q goes on", name, v.Name, p.ID)
				}
			}
		}
		if !failed {
			t.Errorf("%s: nothing has failed: %v", name, err)
		}
	}
}

// TestFailedRepository checks that the error of a repository names the vertex that the client was told of, which is one for
// asking about it and for fetching it.
func TestFailedRepository(t *testing.T) {
	l := &lab{t: t}
	web := l.serve()
	d := start(t)
	_, p, err := d.solve(t.Context(), opts(t, map[string]string{"Dockerfile": "FROM scratch\nADD http://" + web + "/repo.git#main:nosuch /\n"}))
	var v *errdefs.VertexError
	if !errors.As(err, &v) {
		t.Fatalf("got %v", err)
	}
	if name := p.names[v.Digest]; !strings.Contains(name, "repo.git") || p.vertices[name].Error == "" {
		t.Errorf("the error is of %q, of %q", v.Digest, p.names)
	}
}

// TestConvertedStep checks that the step of an image which a policy has put in the place of another names that.
func TestConvertedStep(t *testing.T) {
	d := start(t)
	d.load()
	opt := opts(t, map[string]string{"Dockerfile": "FROM alpine:3\nRUN true\n"})
	opt.SourcePolicy = ruling(spb.PolicyAction_CONVERT, "docker-image://docker.io/library/alpine:3", "docker-image://docker.io/library/busybox:latest")
	_, p, err := d.solve(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if p.has("FROM docker.io/library/busybox:latest@sha256:") == nil || p.has("FROM docker.io/library/alpine") != nil {
		t.Errorf("the steps are %q", p.order)
	}
}
