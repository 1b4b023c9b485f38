package cdi_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/cdi"
)

const vendor = `
cdiVersion: "0.7.0"
kind: "vendor.com/gpu"
containerEdits:
  env: ["ALL=1"]
devices:
- name: one
  containerEdits:
    env: ["ONE=1"]
    deviceNodes:
    - path: /dev/one
      hostPath: /dev/null
      permissions: r
      fileMode: 0440
      uid: 3
      gid: 4
    mounts:
    - {hostPath: HERE, containerPath: /opt/one, options: [ro, nosuid, bind]}
    - {hostPath: tmpfs, containerPath: /opt/tmp, type: tmpfs}
    additionalGids: [44]
- name: two
  annotations:
    org.mobyproject.buildkit.device.class: "quick"
    org.mobyproject.buildkit.device.autoallow: "true"
  containerEdits:
    env: ["TWO=1"]
- name: hooked
  containerEdits:
    hooks:
    - {hookName: createContainer, path: /bin/true}
    - {hookName: createContainer, path: /bin/vendor, args: [vendor, link, /a], env: [DEBUG=0], timeout: 5}
    - {hookName: createContainer, path: /bin/true}
    - {hookName: poststop, path: /bin/stop}
- name: lost
  containerEdits:
    mounts:
    - {hostPath: /nosuch/dir, containerPath: /opt/lost}
`

const open = `{"cdiVersion": "0.6.0", "kind": "vendor.com/open", "annotations": {"org.mobyproject.buildkit.device.autoallow": "true"},
"devices": [{"name": "x", "containerEdits": {"env": ["X=1"]}}, {"name": "y",
"annotations": {"org.mobyproject.buildkit.device.autoallow": "false"}, "containerEdits": {"env": ["Y=1"]}}]}`

// described returns a directory with descriptions of devices.
func described(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"vendor.yaml": strings.ReplaceAll(vendor, "HERE", dir), "open.json": open, "broken.yaml": "kind: [", "other.txt": vendor,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestFind checks which devices each form of a name stands for, and which of them need no entitlement. A file that makes
// no sense takes no others with it.
func TestFind(t *testing.T) {
	dir := described(t)
	for _, tc := range []struct {
		opt        cdi.Options
		name, want string
	}{
		{cdi.Options{}, "vendor.com/gpu=one", "vendor.com/gpu=one"},
		{cdi.Options{}, "vendor.com/gpu", "vendor.com/gpu=hooked"},
		{cdi.Options{}, "vendor.com/gpu=*", "vendor.com/gpu=hooked vendor.com/gpu=lost vendor.com/gpu=one vendor.com/gpu=two!"},
		{cdi.Options{}, "vendor.com/gpu=", "vendor.com/gpu=hooked"},
		{cdi.Options{}, "vendor.com/gpu=nosuch", ""},
		{cdi.Options{}, "vendor.com/gp", ""},
		{cdi.Options{}, "vendor.com/gpu=o", ""},
		{cdi.Options{}, "quick", "vendor.com/gpu=two!"},
		{cdi.Options{}, "slow", ""},
		{cdi.Options{}, "v/c", ""},
		{cdi.Options{}, "v/c=x", ""},
		{cdi.Options{}, "/", ""},
		{cdi.Options{}, "=*", ""},
		{cdi.Options{}, "", ""},
		{cdi.Options{}, "vendor.com/open=*", "vendor.com/open=x! vendor.com/open=y"},
		{cdi.Options{AutoAllowed: []string{"vendor.com/gpu=one"}}, "vendor.com/gpu=one", "vendor.com/gpu=one!"},
		{cdi.Options{AutoAllowed: []string{"vendor.com/gpu"}}, "vendor.com/gpu=one", "vendor.com/gpu=one!"},
		{cdi.Options{AutoAllowed: []string{"vendor.com/gpu=two", "vendor.com"}}, "vendor.com/gpu=one", "vendor.com/gpu=one"},
		{cdi.Options{Disabled: true}, "vendor.com/gpu=one", ""},
	} {
		tc.opt.Dirs = []string{dir}
		found, err := cdi.New(tc.opt).Find(tc.name)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		var got []string
		for _, d := range found {
			if d.AutoAllowed {
				d.Name += "!"
			}
			got = append(got, d.Name)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%+v: %q is %q, want %q", tc.opt, tc.name, got, tc.want)
		}
	}
}

// TestBroken checks that the administrator is told of the file that makes no sense.
func TestBroken(t *testing.T) {
	var log bytes.Buffer
	d := cdi.New(cdi.Options{Dirs: []string{described(t)}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := d.Find("vendor.com/gpu"); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "broken.yaml") {
		t.Errorf("the log is %q", got)
	}
}

// TestOneLetter checks that a file on which the library panics takes no other file's devices with it, and that the
// administrator is told which file it is.
func TestOneLetter(t *testing.T) {
	dir := described(t)
	bad := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(bad, []byte(strings.ReplaceAll(vendor, "vendor.com/gpu", "v/c")), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d := cdi.New(cdi.Options{Dirs: []string{dir}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if found, err := d.Find("vendor.com/gpu=one"); err != nil || len(found) != 1 {
		t.Errorf("found %v, %v", found, err)
	}
	if got := log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, bad) {
		t.Errorf("the log is %q", got)
	}
	if _, problems, err := d.Survey(); err != nil || !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, bad) }) {
		t.Errorf("the problems are %q, %v", problems, err)
	}
	if _, err := d.Inject(new(executor.Spec), []string{"vendor.com/gpu=two"}); err != nil {
		t.Error(err)
	}
}

// TestPriority checks which of several descriptions of a device counts: that of the last directory, and none if that has
// two. What cannot be read, a pipe for one, stops nothing.
func TestPriority(t *testing.T) {
	write := func(dir, name, env string) {
		t.Helper()
		text := `{"cdiVersion": "0.6.0", "kind": "vendor.com/open", "devices": [{"name": "` + name + `", "containerEdits": {"env": ["FROM=` + env + `"]}}]}`
		if err := os.WriteFile(filepath.Join(dir, name+env+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	low, high := t.TempDir(), t.TempDir()
	write(low, "a", "low")
	write(high, "a", "high")
	write(low, "b", "low1")
	write(low, "b", "low2")
	write(low, "c", "low1")
	write(low, "c", "low2")
	write(high, "c", "high")
	write(low, "d", "low")
	write(high, "d", "high1")
	write(high, "d", "high2")
	write(low, "e", "low")
	if err := unix.Mkfifo(filepath.Join(high, "pipe.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(high, "dir.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := cdi.New(cdi.Options{Dirs: []string{low, filepath.Join(low, "nosuch"), high}})
	got := make(map[string]string)
	list, problems, err := d.Survey()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range list {
		spec := new(executor.Spec)
		if _, err := d.Inject(spec, []string{x.Name}); err != nil {
			t.Error(err)
		}
		got[strings.TrimPrefix(x.Name, "vendor.com/open=")] = strings.Join(spec.Process.Env, " ")
	}
	if want := map[string]string{"a": "FROM=high", "c": "FROM=high", "e": "FROM=low"}; !reflect.DeepEqual(got, want) {
		t.Errorf("the devices are %q, want %q", got, want)
	}
	if len(problems) != 7 || !strings.Contains(strings.Join(problems, "\n"), "pipe.json") {
		t.Errorf("the problems are %q", problems)
	}
}

// TestMountOptions checks that a device's mount has the options that its description says, the later of two that
// contradict each other, and that one nobody knows is an error that names it.
func TestMountOptions(t *testing.T) {
	dir := t.TempDir()
	memory := func(m executor.Mount) executor.Mount {
		m.Type, m.Target = executor.Tmpfs, "/tt"
		return m
	}
	for options, want := range map[string]executor.Mount{
		"size=1m": memory(executor.Mount{Data: []string{"size=1m"}}),
		"mode=0750, uid=3, gid=4, nr_inodes=7, size=10%": memory(executor.Mount{
			Mode: 0o750, UID: 3, GID: 4, Data: []string{"nr_inodes=7", "size=10%"},
		}),
		"ro, noexec, nosuid, nodev, rw, exec": memory(executor.Mount{NoSuid: true, NoDev: true}),
		"strictatime, rprivate, ro":           memory(executor.Mount{ReadOnly: true, Flags: []string{"strictatime"}}),
		"noatime, sync":                       memory(executor.Mount{Flags: []string{"noatime", "sync"}}),
	} {
		spec, err := mounted(t, dir, "{hostPath: tmpfs, containerPath: /tt, type: tmpfs, options: ["+options+"]}")
		if err != nil || len(spec.Mounts) != 1 || !reflect.DeepEqual(spec.Mounts[0], want) {
			t.Errorf("%s: got %+v, %v, want %+v", options, spec.Mounts, err, want)
		}
	}
	for m, want := range map[string]string{
		"{hostPath: tmpfs, containerPath: /tt, type: tmpfs, options: [sise=1m]}": `at /tt: tmpfs option "sise=1m": unknown option`,
		"{hostPath: tmpfs, containerPath: /tt, type: tmpfs, options: [mode=9]}":  `at /tt: tmpfs option "mode=9": `,
		"{hostPath: none, containerPath: /tt, type: proc}":                       `at /tt: unsupported type "proc"`,
	} {
		if _, err := mounted(t, dir, m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", m, err, want)
		}
	}
}

// mounted returns what a device needs that is described as having a mount.
func mounted(t *testing.T, dir, m string) (*executor.Spec, error) {
	t.Helper()
	text := "cdiVersion: 0.6.0\nkind: vendor.com/mount\ndevices:\n- {name: m, containerEdits: {mounts: [" + m + "]}}\n"
	if err := os.WriteFile(filepath.Join(dir, "m.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := new(executor.Spec)
	done, err := cdi.New(cdi.Options{Dirs: []string{dir}}).Inject(spec, []string{"vendor.com/mount=m"})
	if err == nil {
		done()
	}
	return spec, err
}

// TestLate checks that a device is found which was installed after the daemon has started.
func TestLate(t *testing.T) {
	dir := t.TempDir()
	d := cdi.New(cdi.Options{Dirs: []string{dir}})
	for _, want := range []int{0, 2} {
		if found, err := d.Find("vendor.com/open=*"); err != nil || len(found) != want {
			t.Errorf("found %v, %v, want %d", found, err, want)
		}
		if err := os.WriteFile(filepath.Join(dir, "open.json"), []byte(open), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInject checks that a sandbox gets what the description of its devices says, beside what it had.
func TestInject(t *testing.T) {
	dir := described(t)
	spec := &executor.Spec{
		Process: executor.Process{Env: []string{"MINE=1"}, AddGroups: []string{"staff"}},
		Mounts:  []executor.Mount{{Type: executor.Tmpfs, Target: "/mine"}},
	}
	done, err := cdi.New(cdi.Options{Dirs: []string{dir}}).Inject(spec, []string{"vendor.com/gpu=one", "vendor.com/gpu=two"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := spec.Process.Env, []string{"MINE=1", "ONE=1", "TWO=1", "ALL=1"}; !sameSet(got, want) {
		t.Errorf("the environment is %q, want %q", got, want)
	}
	if want := []string{"staff", "44"}; !slices.Equal(spec.Process.AddGroups, want) {
		t.Errorf("the groups are %q, want %q", spec.Process.AddGroups, want)
	}
	want := executor.Device{Path: "/dev/one", Type: "c", Major: 1, Minor: 3, Mode: 0o440, UID: 3, GID: 4, Access: "r"}
	if len(spec.Devices) != 1 || spec.Devices[0] != want {
		t.Errorf("the nodes are %+v, want %+v", spec.Devices, want)
	}
	if len(spec.Mounts) != 3 || spec.Mounts[2].Type != executor.Tmpfs || spec.Mounts[2].Target != "/opt/tmp" {
		t.Fatalf("the mounts are %+v", spec.Mounts)
	}
	m := spec.Mounts[1]
	var there, here unix.Stat_t
	if err := unix.Fstat(int(m.Source.Fd()), &there); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(dir, &here); err != nil {
		t.Fatal(err)
	}
	if m.Type != executor.Bind || m.Target != "/opt/one" || !m.ReadOnly || !m.NoSuid || m.NoDev || there.Ino != here.Ino {
		t.Errorf("the mount is %+v of inode %d, want %d", m, there.Ino, here.Ino)
	}
	done()
	if _, err := m.Source.Stat(); err == nil {
		t.Error("the file of the mount is open when all is done")
	}
}

// TestInjectHooks checks that the programs of a description become the sandbox's hooks, in order, each once.
func TestInjectHooks(t *testing.T) {
	mine := executor.Hook{Stage: executor.Prestart, Path: "/mine"}
	spec := &executor.Spec{Hooks: []executor.Hook{mine}}
	done, err := cdi.New(cdi.Options{Dirs: []string{described(t)}}).Inject(spec, []string{"vendor.com/gpu=hooked"})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	want := []executor.Hook{
		mine,
		{Stage: executor.CreateContainer, Path: "/bin/true"},
		{
			Stage: executor.CreateContainer, Path: "/bin/vendor", Args: []string{"vendor", "link", "/a"},
			Env: []string{"DEBUG=0"}, Timeout: 5 * time.Second,
		},
		{Stage: executor.Poststop, Path: "/bin/stop"},
	}
	if !reflect.DeepEqual(spec.Hooks, want) {
		t.Errorf("the hooks are %+v, want %+v", spec.Hooks, want)
	}
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// TestInjectErrors checks what is said of a device that cannot be given.
func TestInjectErrors(t *testing.T) {
	d := cdi.New(cdi.Options{Dirs: []string{described(t)}})
	for name, want := range map[string]string{
		"vendor.com/gpu=nosuch": "vendor.com/gpu=nosuch is not registered",
		"vendor.com/gpu=lost":   "open /nosuch/dir: no such file or directory",
	} {
		if _, err := d.Inject(new(executor.Spec), []string{name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
}
