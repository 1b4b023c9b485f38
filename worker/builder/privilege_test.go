package builder

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
)

// fakeDevices are three devices, of which one is for everybody.
type fakeDevices struct{ executor.Devices }

func (fakeDevices) Find(name string) (out []executor.NamedDevice, _ error) {
	for _, d := range []executor.NamedDevice{{Name: "v/c=one"}, {Name: "v/c=two"}, {Name: "v/free=one", AutoAllowed: true}} {
		if d.Name == name || strings.TrimSuffix(name, "*") != name && strings.HasPrefix(d.Name, strings.TrimSuffix(name, "*")) {
			out = append(out, d)
		}
	}
	return out, nil
}

// below makes a graph in which e is deep down, behind a step that is allowed.
func below(e *op.Exec, meta solver.Meta) []solver.Input {
	e.Meta.Args = []string{"true"}
	e.Mounts = append([]op.ExecMount{{Input: op.NoInput, Dest: "/"}}, e.Mounts...)
	v := solver.NewVertex(e, nil, meta)
	top := &op.Exec{Meta: op.ExecMeta{Args: []string{"true"}}, Mounts: []op.ExecMount{{Dest: "/"}}}
	in := solver.Input{Vertex: v}
	return []solver.Input{{Vertex: solver.NewVertex(top, []solver.Input{in, in}, solver.Meta{})}}
}

// TestAdmit checks that no process gets what was not granted, wherever in a graph it is, and that the error names the step.
func TestAdmit(t *testing.T) {
	b := New(Deps{
		Devices: fakeDevices{}, Entitlements: []string{"network.host", "security.insecure", "device"},
		Runner: run.New(run.Deps{CacheDir: t.TempDir()}),
	})
	device := func(names ...string) *op.Exec {
		e := new(op.Exec)
		for _, n := range names {
			e.Devices = append(e.Devices, op.ExecDevice{Name: n})
		}
		return e
	}
	host, insecure := func() *op.Exec { return &op.Exec{Network: op.NetworkHost} }, func() *op.Exec { return &op.Exec{Security: op.SecurityInsecure} }
	for _, tc := range []struct {
		asked string
		exec  *op.Exec
		want  string
	}{
		{"", new(op.Exec), ""},
		{"", &op.Exec{Network: op.NetworkNone}, ""},
		{"", host(), "network.host is not allowed"},
		{"security.insecure device", host(), "network.host is not allowed"},
		{"network.host", host(), ""},
		{"", insecure(), "security.insecure is not allowed"},
		{"network.host device", insecure(), "security.insecure is not allowed"},
		{"security.insecure", insecure(), ""},
		{"security.insecure", &op.Exec{Security: op.SecurityInsecure, Network: op.NetworkHost}, "network.host is not allowed"},
		{"", device("v/c=one"), "device v/c=one is requested by the build but not allowed"},
		{"security.insecure", device("v/c=one"), "device v/c=one is requested by the build but not allowed"},
		{"", device("v/c=*"), "devices v/c=one, v/c=two are requested by the build but not allowed"},
		{"device=v/c=one", device("v/c=*"), "device v/c=two is requested by the build but not allowed"},
		{"device=v/c=one", device("v/c=one"), ""},
		{"device=v/c=two,alias=v/c=one", device("v/c=one"), ""}, // the one is the other here
		{"device=v/c=two,alias=mine", device("mine"), ""},
		{"device=v/c=two,alias=mine", device("v/c=two"), ""},
		{"device=v/c=*", device("v/c=one", "v/c=two"), ""},
		{"device", device("v/c=*"), ""},
		{"", device("v/free=one"), ""},
		{"", device("v/nosuch=x"), `required device "v/nosuch=x" is not registered`},
		{"device=v/c=one", device("v/c=two", "v/nosuch=x"), `required device "v/nosuch=x" is not registered`},
		{"", &op.Exec{Devices: []op.ExecDevice{{Name: "v/nosuch=x", Optional: true}}}, ""},
		{"device", device("v/nosuch=x"), ""}, // the step says so, if it runs
	} {
		g, err := b.grants(strings.Fields(tc.asked))
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.admit(below(tc.exec, solver.Meta{Name: "deep"}), g)
		var vertex *solver.VertexError
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("with %q: %v", tc.asked, err)
		case tc.want != "" && (!errors.As(err, &vertex) || vertex.Vertex.Name() != "deep" || !strings.HasPrefix(err.Error(), tc.want)):
			t.Errorf("with %q: got %v, want %s", tc.asked, err, tc.want)
		}
	}
}

// TestDevicesFound checks that what a step is named by has the devices that there are, so that one which did without a
// device is not found when the device is there; and that what a client knows the step by stays.
func TestDevicesFound(t *testing.T) {
	b := New(Deps{Devices: fakeDevices{}, Entitlements: []string{"device"}})
	for _, asked := range []string{"device", "device=v/c=*"} {
		g, err := b.grants([]string{asked, "device=v/c=two,alias=mine"})
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct{ have, want []op.ExecDevice }{
			{nil, nil},
			{[]op.ExecDevice{{Name: "v/c=one"}}, []op.ExecDevice{{Name: "v/c=one"}}},
			{[]op.ExecDevice{{Name: "v/c=one", Optional: true}}, []op.ExecDevice{{Name: "v/c=one"}}},
			{[]op.ExecDevice{{Name: "v/d=one", Optional: true}}, []op.ExecDevice{{Name: "v/d=one", Optional: true}}},
			{[]op.ExecDevice{{Name: "v/c=two", Optional: true}, {Name: "v/c=*"}}, []op.ExecDevice{{Name: "v/c=two"}, {Name: "v/c=one"}}},
			{[]op.ExecDevice{{Name: "mine", Optional: true}}, []op.ExecDevice{{Name: "v/c=two"}}},
		} {
			out := &frontend.Output{Images: []frontend.Image{{Root: &below(&op.Exec{Devices: tc.have}, solver.Meta{Name: "deep"})[0]}}}
			top := out.Images[0].Root.Vertex
			out.Images[0].Layers = []solver.Input{top.Inputs()[0], *out.Images[0].Root}
			if err := b.admitOutput(out, g); err != nil {
				t.Fatal(err)
			}
			img := &out.Images[0]
			for _, v := range []*solver.Vertex{img.Root.Vertex.Inputs()[0].Vertex, img.Layers[0].Vertex, img.Layers[1].Vertex.Inputs()[1].Vertex} {
				if got := v.Op().(*op.Exec).Devices; !slices.Equal(got, tc.want) || v.Name() != "deep" {
					t.Errorf("with %s, %v: got %v of %s, want %v", asked, tc.have, got, v.Name(), tc.want)
				}
			}
			if same := img.Root.Vertex.Recipe() == top.Recipe(); same != slices.Equal(tc.have, tc.want) {
				t.Errorf("with %s, %v: is it the same step? %v", asked, tc.have, same)
			}
		}
	}
}

// TestDaemonDecides checks that a request for what the daemon does not allow ends the build, before anything else happens.
func TestDaemonDecides(t *testing.T) {
	b := New(Deps{Entitlements: []string{"network.host"}})
	for asked, want := range map[string]string{
		"network.host":                   "",
		"security.insecure":              "granting entitlement security.insecure is not allowed by build daemon configuration",
		"network.host security.insecure": "granting entitlement security.insecure is not allowed by build daemon configuration",
		"device=v/c=one":                 "granting entitlement device is not allowed by build daemon configuration",
		"root":                           "unknown entitlement root",
	} {
		_, err := b.grants(strings.Fields(asked))
		var usage *frontend.UsageError
		if (err == nil) != (want == "") || err != nil && (err.Error() != want || !errors.As(err, &usage)) {
			t.Errorf("%s: got %v, want %s", asked, err, want)
		}
	}
}

// TestFreshCaches checks that a build empties the cache mounts of the steps that it runs without the cache, and of no others.
func TestFreshCaches(t *testing.T) {
	dir := t.TempDir()
	b := New(Deps{Runner: run.New(run.Deps{CacheDir: dir})})
	for _, fresh := range []bool{false, true} {
		// The name is what package run makes of the ID "x".
		kept := filepath.Join(dir, "2d711642b726b04401627ca9fbac32f5")
		if err := os.MkdirAll(kept, 0o755); err != nil {
			t.Fatal(err)
		}
		e := &op.Exec{Mounts: []op.ExecMount{{Type: op.MountCache, Input: op.NoInput, Dest: "/c", Cache: op.CacheMount{ID: "x"}}}}
		if err := b.empty(below(e, solver.Meta{IgnoreCache: fresh})); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(kept); (err != nil) != fresh {
			t.Errorf("without the cache: %v, the directory: %v", fresh, err)
		}
	}
}
