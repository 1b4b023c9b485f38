package crash

import (
	"fmt"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// faults are what registries do now and then, and what clients have to live through.
var faults = map[string]registrytest.Fault{
	"429":             {Status: 429, Times: 2, RetryAfter: "0"},
	"500":             {Status: 500, Times: 2},
	"503":             {Status: 503, Times: 1},
	"dropped":         {Drop: true, Times: 2},
	"cut in the blob": {Kind: registrytest.Blob, CutAfter: 1000, Times: 2},
	"cut in a push":   {Kind: registrytest.Upload, CutRequest: 1000, Times: 2},
}

// TestRegistryFaults pulls, builds on and pushes an image while the registry fails now and then: all of it succeeds, with
// the right bytes.
func TestRegistryFaults(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			reg := registrytest.New(registrytest.Behaviour{})
			addr := registrytest.Start(t, reg)
			repo := "r/" + strings.ReplaceAll(name, " ", "-")
			text := "content of " + name
			layer := writeTar(file("result", text), file("rest", strings.Repeat(name, 100_000)))
			reg.PutImage(repo, "1", config(t, registrytest.Digest(layer)), layer)

			reg.Fail(fault)
			h.must("", "pull", "-q", addr+"/"+repo+":1")
			h.check(addr+"/"+repo+":1", text)
			reg.Fail(fault)
			h.must("", "build", "-q", "--pull", "--push", "-t", addr+"/"+repo+":2", h.context(map[string]string{
				"Dockerfile": fmt.Sprintf("FROM %s/%s:1\nCOPY more /more\n", addr, repo), "more": strings.Repeat("more "+name, 10_000),
			}))
			reg.Heal()
			h.must("", "rmi", "-f", addr+"/"+repo+":1", addr+"/"+repo+":2")
			h.must("", "prune", "-af")
			h.importBusybox()
			h.must("", "pull", "-q", addr+"/"+repo+":2")
			h.check(addr+"/"+repo+":2", text)
		})
	}
}

// TestRegistryFailures meets registries that fail for good, or lie. What was asked for fails and says which registry and
// why; nothing of what was sent has a name or is built on.
func TestRegistryFailures(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	layer := writeTar(file("result", "right"))
	other := writeTar(file("result", "wrong"))
	for name, spoil := range map[string]func(r *registrytest.Registry){
		"500 for ever":     func(r *registrytest.Registry) { r.Fail(registrytest.Fault{Status: 500}) },
		"dropped for ever": func(r *registrytest.Registry) { r.Fail(registrytest.Fault{Drop: true}) },
		"corrupt blobs":    func(r *registrytest.Registry) { r.Fail(registrytest.Fault{Kind: registrytest.Blob, Corrupt: true}) },
		"corrupt manifest": func(r *registrytest.Registry) { r.Fail(registrytest.Fault{Kind: registrytest.Manifest, Corrupt: true}) },
		"digest of another": func(r *registrytest.Registry) {
			r.Fail(registrytest.Fault{Kind: registrytest.Manifest, Digest: registrytest.Digest(other)})
		},
		"diff ID of another": func(r *registrytest.Registry) { r.PutImage("r", "1", config(t, registrytest.Digest(layer)), other) },
		"more layers": func(r *registrytest.Registry) {
			r.PutImage("r", "1", config(t, registrytest.Digest(layer)), layer, other)
		},
		"config is no config": func(r *registrytest.Registry) { r.PutImage("r", "1", []byte("[]"), layer) },
		"manifest is null": func(r *registrytest.Registry) {
			r.PutManifest("r", "1", "application/vnd.oci.image.manifest.v1+json", []byte("null"))
		},
		"index of itself": func(r *registrytest.Registry) {
			r.PutManifest("r", "1", "application/vnd.oci.image.index.v1+json", []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:../../x","size":2}]}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg := registrytest.New(registrytest.Behaviour{})
			addr := registrytest.Start(t, reg)
			reg.PutImage("r", "1", config(t, registrytest.Digest(layer)), layer)
			spoil(reg)
			h.mustFail("", []string{"pull", addr + "/r:1"}, addr)
			h.mustFail("FROM "+addr+"/r:1\nRUN true\n", []string{"build", "--progress", "plain", "-t", "built", "-"}, addr)
			if r := h.run("", "image", "inspect", addr+"/r:1", "built"); r.err == nil {
				t.Errorf("there is an image: %v", r)
			}
		})
	}
	// Nothing that was refused is taken for the right one afterwards.
	good := registrytest.New(registrytest.Behaviour{})
	addr := registrytest.Start(t, good)
	good.PutImage("r", "1", config(t, registrytest.Digest(layer)), layer)
	h.must("", "pull", addr+"/r:1")
	h.check(addr+"/r:1", "right")
	for _, fault := range []registrytest.Fault{{Status: 500}, {Status: 403, Code: "DENIED", Message: "not yours"}, {Drop: true}} {
		fault.Kind = registrytest.Upload
		good.Fail(fault)
		h.must("", "tag", addr+"/r:1", addr+"/other:1")
		h.mustFail("", []string{"push", addr + "/other:1"}, addr)
		good.Heal()
	}
	h.must("", "push", addr+"/other:1")
	h.checkEmpties()
}
