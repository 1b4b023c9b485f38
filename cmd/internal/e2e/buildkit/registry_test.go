package buildkit

import (
	"sync"
	"testing"

	"github.com/moby/buildkit/client"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// pushes are the options of a build that copies a file of the image at from, and pushes what comes of it to to.
func pushes(t *testing.T, from, to string) client.SolveOpt {
	t.Helper()
	opt := opts(t, map[string]string{"Dockerfile": "FROM " + from + "\nCOPY more /more\n", "more": string(noise(9, 100_000))})
	opt.FrontendAttrs["image-resolve-mode"] = "pull"
	opt.Exports = []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{"name": to, "push": "true"}}}
	return opt
}

// built checks an image that was built, in another daemon's eyes.
func (d *daemon) built(ref string, want []byte) {
	d.t.Helper()
	opt := opts(d.t, map[string]string{"Dockerfile": "FROM " + ref + "\n"})
	opt.FrontendAttrs["image-resolve-mode"] = "pull"
	var files sink
	opt.Exports = []client.ExportEntry{files.to(client.ExporterTar, nil)}
	d.must(opt)
	if got := readTar(d.t, &files); got["file"] != string(want) || len(got["more"]) != 100_000 {
		d.t.Errorf("%s has %d and %d bytes", ref, len(got["file"]), len(got["more"]))
	}
}

// TestRegistryHiccups pulls and pushes while the registry fails now and then. All of it succeeds, with the right bytes.
func TestRegistryHiccups(t *testing.T) {
	d := start(t)
	other := start(t)
	for name, fault := range map[string]registrytest.Fault{
		"429":             {Status: 429, Times: 2, RetryAfter: "0"},
		"500":             {Status: 500, Times: 2},
		"dropped":         {Drop: true, Times: 2},
		"cut in a blob":   {Kind: registrytest.Blob, CutAfter: 1000, Times: 2},
		"cut in an entry": {Kind: registrytest.Manifest, CutAfter: 10, Times: 1},
		"cut in a push":   {Kind: registrytest.Upload, CutRequest: 1000, Times: 2},
	} {
		t.Run(name, func(t *testing.T) {
			d.t, other.t = t, t
			defer func() { d.t, other.t = t, t }()
			reg := registrytest.New(registrytest.Behaviour{})
			addr := registrytest.Start(t, reg)
			want := noise(1, 200_000)
			putLayers(t, reg, "app", layer(t, "file", want))
			reg.Fail(fault)
			d.must(pushes(t, addr+"/app:1", addr+"/out:1"))
			reg.Heal()
			other.built(addr+"/out:1", want)
		})
	}
}

// TestRegistryFailures meets registries that fail for good or lie, on the way in and on the way out. The build fails and
// says which image it was about and why; nothing half-done is left; and when the registry has come to its senses, the same
// build succeeds, with the right bytes.
func TestRegistryFailures(t *testing.T) {
	d := observed(t)
	d.load()
	d.must(opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"}))
	other := start(t)
	was := d.state()
	lie := registrytest.Digest([]byte("another"))
	var builds sync.WaitGroup
	var later []func()
	for name, c := range map[string]struct {
		fault registrytest.Fault
		image string // which is named
		want  string // which is said of it
	}{
		"pull: 429":             {registrytest.Fault{Kind: registrytest.Manifest, Status: 429, RetryAfter: "0"}, "app", "429"},
		"pull: 500":             {registrytest.Fault{Kind: registrytest.Blob, Status: 500}, "app", "500"},
		"pull: 403":             {registrytest.Fault{Kind: registrytest.Manifest, Status: 403, Code: "DENIED", Message: "not yours"}, "app", "not yours"},
		"pull: dropped":         {registrytest.Fault{Drop: true}, "app", ""},
		"pull: cut":             {registrytest.Fault{Kind: registrytest.Blob, CutAfter: 1}, "app", ""},
		"pull: corrupt blob":    {registrytest.Fault{Kind: registrytest.Blob, Corrupt: true}, "app", "sha256:"},
		"pull: corrupt index":   {registrytest.Fault{Kind: registrytest.Manifest, Corrupt: true}, "app", ""},
		"pull: another digest":  {registrytest.Fault{Kind: registrytest.Manifest, Digest: lie}, "app", "sha256:"},
		"push: 429":             {registrytest.Fault{Kind: registrytest.Upload, Status: 429, RetryAfter: "0"}, "out", "429"},
		"push: 500":             {registrytest.Fault{Kind: registrytest.Upload, Status: 500}, "out", "500"},
		"push: 403":             {registrytest.Fault{Kind: registrytest.Upload, Status: 403, Code: "DENIED", Message: "not yours"}, "out", "not yours"},
		"push: dropped":         {registrytest.Fault{Kind: registrytest.Upload, Drop: true}, "out", ""},
		"push: cut":             {registrytest.Fault{Kind: registrytest.Upload, CutRequest: 10}, "out", ""},
		"push: manifest is 500": {registrytest.Fault{Kind: registrytest.Manifest, Method: "PUT", Status: 500}, "out", "500"},
	} {
		reg := registrytest.New(registrytest.Behaviour{})
		addr := registrytest.Start(t, reg)
		want := noise(byte(100+len(later)), 200_000)
		putLayers(t, reg, "app", layer(t, "file", want))
		reg.Fail(c.fault)
		builds.Go(func() { // at once: each tries again for some seconds
			d.fails(t, name, faulty{
				func(t *testing.T) client.SolveOpt { return pushes(t, addr+"/app:1", addr+"/out:1") },
				[]string{addr + "/" + c.image, c.want},
			})
			if _, _, ok := reg.Manifest("out", "1"); ok {
				t.Errorf("%s: there is an image", name)
			}
		})
		later = append(later, func() {
			reg.Heal()
			d.must(pushes(t, addr+"/app:1", addr+"/out:1"))
			other.built(addr+"/out:1", want)
		})
	}
	builds.Wait()
	was.fds["socket:#"] += 2 * len(later) // connections to the registries are kept for the next request
	d.restful(was.partly())
	for _, f := range later {
		f()
	}
}

// partly is a state in which downloads may have been broken off: what they have got stays for the next try.
func (s state) partly() state {
	s.resumable = true
	return s
}
