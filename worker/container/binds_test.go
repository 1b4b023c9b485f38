package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/frontend"
)

// What -v and --mount have is taken as docker takes it, and refused in docker's words.
func TestBinds(t *testing.T) {
	for spec, want := range map[string]string{
		"v:/x":            "volume v  /x z",
		"v:/x:ro":         "volume v  /x ro",
		"v:/x:nocopy":     "volume v  /x nocopy",
		"/vol":            "volume   /vol z",
		"/h:/x":           "bind  /h /x ",
		"/h:/x:ro,rslave": "bind  /h /x ro,rslave",
		"/h:/x:nocopy":    `invalid volume specification: '/h:/x:nocopy': invalid mount config for type "bind": field VolumeOptions must not be specified`,
		"/h:/x:ro,nocopy": `invalid volume specification: '/h:/x:ro,nocopy': invalid mount config for type "bind": field VolumeOptions must not be specified`,
		"v:/x:shared":     `invalid volume specification: 'v:/x:shared': invalid mount config for type "volume": field BindOptions must not be specified`,
	} {
		p, err := parseBind(spec)
		got := strings.Join([]string{string(p.Type), p.Name, p.Source, p.Target, p.Mode}, " ")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s\nwant %s", spec, got, want)
		}
	}
	for _, c := range []struct {
		readOnly bool
		options  mount.BindOptions
		want     string
	}{
		{true, mount.BindOptions{ReadOnlyNonRecursive: true}, ""},
		{true, mount.BindOptions{ReadOnlyForceRecursive: true}, ""},
		{false, mount.BindOptions{NonRecursive: true}, ""},
		{false, mount.BindOptions{ReadOnlyNonRecursive: true}, "!ReadOnly && BindOptions.ReadOnlyNonRecursive"},
		{false, mount.BindOptions{ReadOnlyForceRecursive: true}, "!ReadOnly && BindOptions.ReadOnlyForceRecursive"},
		{true, mount.BindOptions{ReadOnlyNonRecursive: true, ReadOnlyForceRecursive: true}, "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive"},
		{true, mount.BindOptions{NonRecursive: true, ReadOnlyForceRecursive: true}, "ReadOnlyForceRecursive && NonRecursive"},
	} {
		_, err := parseMount(&mount.Mount{Type: mount.TypeBind, Source: "/", Target: "/x", ReadOnly: c.readOnly, BindOptions: &c.options})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), "mount options conflict: "+c.want)) {
			t.Errorf("read-only %v, %+v: got %v, want %q", c.readOnly, c.options, err, c.want)
		}
	}
}

// Volumes of relative paths are below the root; how a volume was asked for shows in its mode; --volumes-from has none. Before
// version 1.44 a bind of -v that is read-only is so by itself.
func TestMountModes(t *testing.T) {
	f := newFixture(t)
	req := request("exit", "0")
	req.Config.Volumes = map[string]struct{}{"ro": {}, "../a/b": {}, "/image": {}}
	req.HostConfig.Binds = []string{"named:/n", f.dir + ":/bind:ro", f.dir + ":/written"}
	req.HostConfig.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: "vol", Target: "/m"}}
	req.ReadOnlyTop = true
	id := f.create(req)
	modes := func(id string) map[string]string {
		in, err := f.Inspect(t.Context(), id, false)
		f.must(err)
		out := make(map[string]string)
		for _, m := range in.Mounts {
			out[m.Destination] = m.Mode
		}
		return out
	}
	got := modes(id)
	for target, want := range map[string]string{"/ro": "", "/a/b": "", "/image": "", "/n": "z", "/bind": "ro", "/m": "z"} {
		if mode, ok := got[target]; !ok || mode != want {
			t.Errorf("%s has the mode %q (%v), want %q", target, mode, ok, want)
		}
	}
	c, err := f.find(id)
	f.must(err)
	for _, p := range c.get().Mounts {
		if p.ReadOnlyTop != (p.Target == "/bind") {
			t.Errorf("%s is read-only by itself: %v", p.Target, p.ReadOnlyTop)
		}
	}
	req = request("exit", "0")
	req.HostConfig.VolumesFrom = []string{id + ":ro"}
	for target, mode := range modes(f.create(req)) {
		if mode != "" {
			t.Errorf("from another container %s has the mode %q", target, mode)
		}
	}
	req.Config.Volumes = map[string]struct{}{"./": {}}
	_, err = f.Create(t.Context(), req)
	f.want(err, "destination can't be '/'")
}

// A container in the network of another cannot ask for ports to be exposed; that its image exposes some is no matter.
func TestExposedInOthersNetwork(t *testing.T) {
	f := newFixture(t)
	web := new(frontend.ImageConfig)
	web.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}}
	f.addImage("web:1", web, nil)
	other := f.create(request("exit", "0"))
	req := request("exit", "0")
	req.Image, req.HostConfig.NetworkMode = "web:1", container.NetworkMode("container:"+other)
	f.create(req)
	req.ExposedPorts = network.PortSet{network.MustParsePort("80/tcp"): {}}
	_, err := f.Create(t.Context(), req)
	f.want(err, "conflicting options: port exposing and the container type network mode")
}

// A bind can share its mounts only with a place of the host that shares its own.
func TestPropagation(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	at := filepath.Join(t.TempDir(), "host")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	below := filepath.Join(at, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		flags  uintptr
		shared bool
	}{{"private", unix.MS_PRIVATE, false}, {"shared", unix.MS_SHARED, true}} {
		if err := unix.Mount("", at, "", c.flags, ""); err != nil {
			t.Fatal(err)
		}
		for _, p := range mount.Propagations {
			f, err := openBind(&mountPoint{Type: mount.TypeBind, Source: below, Propagation: p})
			if err == nil {
				f.Close()
			}
			want := ""
			switch {
			case c.shared, strings.Contains(string(p), "private"):
			case strings.Contains(string(p), "shared"):
				want = "path " + below + " is mounted on " + at + " but it is not a shared mount"
			default:
				want = "path " + below + " is mounted on " + at + " but it is not a shared or slave mount"
			}
			if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
				t.Errorf("%s in a %s mount: got %v, want %q", p, c.name, err, want)
			}
		}
	}
}
