package shim_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
)

// A working directory among the descriptors of the process that becomes the sandbox's leads nowhere on the host
// (CVE-2024-21626): the start fails, or the directory is in the root.
func TestWorkdirInDescriptors(t *testing.T) { both(t, testWorkdirInDescriptors) }

func testWorkdirInDescriptors(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	host, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	box := start(t, e, sh(root, "sleep 100000"))
	const script = "readlink /proc/self/cwd; cat ../../../../../../../proc/self/mountinfo"
	check := func(i int, out string) {
		t.Helper()
		if strings.Contains(out, "unreachable") || strings.Contains(out, string(host)) || strings.Contains(out, "/run/") {
			t.Errorf("descriptor %d: %s", i, out)
		}
	}
	for i := range 18 {
		cwd := fmt.Sprintf("/proc/self/fd/%d", i+3)
		spec := sh(root, script)
		spec.Process.Cwd = cwd
		if r, err := tryRun(e, spec); err == nil {
			check(i+3, r.out)
		}
		var out bytes.Buffer
		p := &executor.Process{Args: []string{"/bin/sh", "-c", script}, Cwd: cwd}
		if _, err := box.Exec(context.Background(), p, executor.IO{Stdout: &out}); err == nil {
			check(i+3, out.String())
		}
	}
}

// A process in a sandbox can't change the program that started it (CVE-2019-5736), be it the first one, started as
// /proc/self/exe, or one that watches every Exec; nor does it find one of that program's descriptors (CVE-2016-9962).
func TestProgramIsSafe(t *testing.T) { both(t, testProgramIsSafe) }

func testProgramIsSafe(t *testing.T, e executor.Executor) {
	root, dir := newRoot(t)
	before, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	spec := sh(root, "")
	spec.Process.Args = []string{"/proc/self/exe", "--", "/bin/true"}
	_, _ = tryRun(e, spec)

	// Whatever appears in the sandbox's pid namespace that is not busybox is written to, and its descriptors listed.
	box := start(t, e, sh(root, `while :; do for p in /proc/[0-9]*; do
		l=$(readlink $p/exe) || continue
		case "$l" in */busybox) continue;; esac
		echo "saw $l" >> /tmp/seen
		echo overwritten 2>/dev/null > $p/exe && echo "wrote $l" >> /tmp/wrote
		for f in $p/fd/*; do t=$(readlink $f) && echo "fd $t" >> /tmp/wrote; done
	done; done`))
	seen := filepath.Join(dir, "tmp/wrote")
	for range 40 {
		_, _ = box.Exec(context.Background(), &executor.Process{Args: []string{"/bin/true"}}, executor.IO{})
	}
	if data, err := os.ReadFile(seen); err == nil {
		t.Errorf("the sandbox got at the program: %s", data)
	}
	// The program as the sandbox's own command: its descriptors are the sandbox's, but it still can't be written to.
	for range 3 {
		p := &executor.Process{Args: []string{"/proc/self/exe", "--", "/bin/sleep", "0.2"}}
		_, _ = box.Exec(context.Background(), p, executor.IO{})
	}
	box.Close()
	if _, err := os.Stat(filepath.Join(dir, "tmp/seen")); err != nil {
		t.Errorf("the sandbox saw no program to write to: %v", err)
	}
	if data, err := os.ReadFile(seen); err == nil && bytes.Contains(data, []byte("wrote")) {
		t.Errorf("the sandbox wrote to the program: %s", data)
	}
	after, err := os.ReadFile(binary)
	if err != nil || sha256.Sum256(before) != sha256.Sum256(after) {
		t.Errorf("boxshim has changed: %v", err)
	}
	if r := run(t, e, sh(root, "echo fine")); r.out != "fine\n" {
		t.Errorf("the next sandbox: %+v", r)
	}
}

// Directories that the sandbox is built on may be links in the root, absolute or relative, to a directory of the host's
// (CVE-2026-41579, CVE-2015-3627, CVE-2019-19921): then the start fails, or all stays in the root. Nothing outside
// changes.
func TestLinksInRoot(t *testing.T) { both(t, testLinksInRoot) }

func testLinksInRoot(t *testing.T, e executor.Executor) {
	for _, name := range []string{"dev", "proc", "sys", "etc", "tmp", "a"} {
		for _, relative := range []bool{false, true} {
			root, dir := newRoot(t)
			c := newCanary(t)
			target := c.dir
			if relative {
				target = strings.Repeat("../", 30) + strings.TrimPrefix(c.dir, "/")
			}
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			spec := sh(root, "echo x > /dev/null; cat /proc/keys; [ $(stat -c %t:%T /proc/keys) = 1:3 ] && echo masked")
			spec.Hosts, spec.ResolvConf = []byte("h\n"), []byte("r\n")
			spec.Process.Cwd = "/a/new"
			spec.Mounts = []executor.Mount{{Target: "/a/b/c", Type: executor.Tmpfs}, {Target: "/tmp/f", Type: executor.File}}
			r, err := tryRun(e, spec)
			if err == nil && r.out != "masked\n" {
				t.Errorf("/%s is a link: output %q, %q", name, r.out, r.err)
			}
			if name == "proc" && err == nil {
				t.Error("/proc is a link, and the sandbox started")
			}
			c.check(t)
		}
	}
}

// /dev/null of the root plays no part in masking, nor /dev/console and /dev/pts in a terminal's set-up
// (CVE-2025-31133, CVE-2025-52565).
func TestLinksInDev(t *testing.T) { both(t, testLinksInDev) }

func testLinksInDev(t *testing.T, e executor.Executor) {
	root, dir := newRoot(t)
	c := newCanary(t)
	for _, name := range []string{"null", "console", "pts", "ptmx", "shm", "mqueue"} {
		if err := os.Symlink(c.dir, filepath.Join(dir, "dev", name)); err != nil {
			t.Fatal(err)
		}
	}
	spec := sh(root, "tty; stat -c %F /dev/console /dev/null; stat -c %t:%T /proc/keys; echo x > /proc/sysrq-trigger || echo refused")
	spec.Process.Terminal = true
	r := run(t, e, spec)
	if !strings.HasPrefix(r.out, "/dev/pts/0\r\ncharacter special file\r\ncharacter special file\r\n1:3\r\n") ||
		!strings.Contains(r.out, "refused") {
		t.Errorf("output is %q", r.out)
	}
	c.check(t)
}

// While another sandbox exchanges a directory and a link to the host in a shared mount, mounts below it stay inside
// (CVE-2021-30465), mount points are made inside (CVE-2024-45310), and settings in /proc go where they should
// (CVE-2025-52881): nothing outside changes, and a process that runs finds its mount.
func TestRaces(t *testing.T) { both(t, testRaces) }

func testRaces(t *testing.T, e executor.Executor) {
	c := newCanary(t)
	shared := t.TempDir()
	for _, d := range []string{"d/b", "e"} {
		if err := os.MkdirAll(filepath.Join(shared, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(c.dir, filepath.Join(shared, "l")); err != nil {
		t.Fatal(err)
	}
	src := open(t, shared)
	attackerRoot, _ := newRoot(t)
	attacker := sh(attackerRoot, "cd /v; while :; do mv d x; mv l d; mv d l; mv x d; done")
	attacker.Mounts = []executor.Mount{{Target: "/v", Source: src}}
	start(t, e, attacker)

	var wg sync.WaitGroup
	for range 2 {
		root, _ := newRoot(t)
		wg.Go(func() {
			for range 40 {
				spec := sh(root, "grep ' /v/d' /proc/self/mountinfo; cat /proc/sys/kernel/domainname")
				spec.Mounts = []executor.Mount{
					{Target: "/v", Source: src},
					{Target: "/v/d/b", Type: executor.Tmpfs},
					{Target: "/v/d/new", Type: executor.Tmpfs},
				}
				spec.Sysctls = map[string]string{"kernel.domainname": "set.test"}
				if r, err := tryRun(e, spec); err == nil && !strings.Contains(r.out, "set.test") {
					t.Errorf("output %q, %q", r.out, r.err)
				}
			}
		})
	}
	wg.Wait()
	c.check(t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), shared) || strings.Contains(string(mounts), c.dir) {
		t.Errorf("the host has new mounts: %v\n%s", err, mounts)
	}
}

// Mount points that were made for a sandbox are taken away again, and the directories they were in have their old
// times; but what the process made stays, and nothing is followed to where the process has put a link
// (CVE-2024-23652).
func TestStubs(t *testing.T) { both(t, testStubs) }

func testStubs(t *testing.T, e executor.Executor) {
	root, dir := newRoot(t)
	c := newCanary(t)
	if err := os.RemoveAll(filepath.Join(dir, "sys")); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	spec := sh(root, "echo x > /deep/er/tmp/x; cat /etc/hosts /etc/resolv.conf /deep/file")
	spec.Hosts, spec.ResolvConf = []byte("hosts\n"), []byte("resolv\n")
	mounts := []executor.Mount{
		{Target: "/deep/er/tmp", Type: executor.Tmpfs},
		{Target: "/deep/file", Type: executor.File, Content: []byte("content\n")},
		{Target: "/tmp/dir", Source: open(t, c.dir), ReadOnly: true},
	}
	spec.Mounts = mounts
	if r := run(t, e, spec); r.out != "hosts\nresolv\ncontent\n" || r.exit.Code != 0 {
		t.Errorf("output is %q, %q", r.out, r.err)
	}
	if after := snapshot(t, dir); after != before {
		t.Errorf("the root was\n%sand is\n%s", before, after)
	}

	spec = sh(root, "echo x > /deep/own; mv /tmp /moved; ln -s "+c.dir+" /tmp; mv /deep/er /deep/hidden; ln -s "+c.dir+" /deep/er")
	spec.Mounts = mounts
	if r := run(t, e, spec); r.exit.Code != 0 {
		t.Errorf("output is %q, %q", r.out, r.err)
	}
	for path, want := range map[string]bool{
		"deep/own": true, "deep/file": false, "moved": true, "moved/dir": false, "deep/hidden/tmp": false, "deep/er": true,
	} {
		if _, err := os.Lstat(filepath.Join(dir, path)); (err == nil) != want {
			t.Errorf("%s: %v, want it to be there: %t", path, err, want)
		}
	}
	c.check(t)
}

// Nothing is left of mount points that were made behind dangling links, wherever in the root those lead, and nothing is
// made where they would lead on the host.
func TestStubsBehindLinks(t *testing.T) { both(t, testStubsBehindLinks) }

func testStubsBehindLinks(t *testing.T, e executor.Executor) {
	c := newCanary(t)
	outside := filepath.Join(t.TempDir(), "none")
	for name, tc := range map[string]struct {
		links  map[string]string // by path in the root
		target string            // of a tmpfs and, with .f, of a file; "" for none
	}{
		"stub resolver":   {map[string]string{"etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf"}, ""},
		"hosts":           {map[string]string{"etc/hosts": "/x/r"}, ""},
		"user's":          {map[string]string{"dl": "/nowhere/x", "dl.f": "nowhere/y/z"}, "/dl"},
		"parent":          {map[string]string{"dl": "/nowhere/x"}, "/dl/a/b"},
		"chain":           {map[string]string{"dl": "etc/../b", "b": "./tmp/c", "tmp/c": "../new/d/"}, "/dl/a"},
		"dots in missing": {map[string]string{"dl": "/nowhere/../other/x"}, "/dl/a"},
		"back to present": {map[string]string{"dl": "/nowhere/../tmp"}, "/dl/a"},
		"out of the root": {map[string]string{"dl": strings.Repeat("../", 20) + outside + "/d", "etc/hosts": outside + "/f"}, "/dl/a"},
	} {
		t.Run(name, func(t *testing.T) {
			root, dir := newRoot(t)
			for at, to := range tc.links {
				_ = os.Remove(filepath.Join(dir, at))
				if err := os.Symlink(to, filepath.Join(dir, at)); err != nil {
					t.Fatal(err)
				}
			}
			before := snapshot(t, dir)
			spec := sh(root, "cat /etc/hosts /etc/resolv.conf")
			spec.Hosts, spec.ResolvConf = []byte("hosts\n"), []byte("resolv\n")
			want := "hosts\nresolv\n"
			if tc.target != "" {
				spec = sh(root, fmt.Sprintf("echo x > %[1]s/x; cat %[1]s/x %[1]s.f /etc/hosts", tc.target))
				spec.Hosts = []byte("hosts\n")
				spec.Mounts = []executor.Mount{
					{Target: tc.target, Type: executor.Tmpfs},
					{Target: tc.target + ".f", Type: executor.File, Content: []byte("content\n")},
				}
				want = "x\ncontent\nhosts\n"
			}
			if r := run(t, e, spec); r.out != want || r.exit.Code != 0 {
				t.Errorf("output is %q, %q", r.out, r.err)
			}
			if after := snapshot(t, dir); after != before {
				t.Errorf("the root was\n%sand is\n%s", before, after)
			}
			if _, err := os.Lstat(outside); err == nil {
				t.Errorf("%s was made on the host", outside)
			}
		})
	}
	c.check(t)
}

// While another sandbox exchanges a directory of a shared mount for a link to the process file system's own, no mount is made
// there, and what the runtime writes to /proc goes to the files that it means (CVE-2025-52881): a process that runs has the
// setting and its masks, and nothing is mounted below /proc but what belongs there.
func TestRacesInProc(t *testing.T) { both(t, testRacesInProc) }

func testRacesInProc(t *testing.T, e executor.Executor) {
	shared := t.TempDir()
	for _, d := range []string{"d/attr", "d/sys/kernel", "d/kernel"} {
		if err := os.MkdirAll(filepath.Join(shared, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"p": "/proc/self", "q": "/proc", "r": "/proc/sys"} {
		if err := os.Symlink(to, filepath.Join(shared, name)); err != nil {
			t.Fatal(err)
		}
	}
	src := open(t, shared)
	attackerRoot, _ := newRoot(t)
	attacker := sh(attackerRoot, "cd /v; while :; do for l in p q r; do mv d x; mv $l d; mv d $l; mv x d; done; done")
	attacker.Mounts = []executor.Mount{{Target: "/v", Source: src}}
	start(t, e, attacker)
	root, _ := newRoot(t)
	plain := run(t, e, sh(root, "grep -o ' /proc[^ ]* ' /proc/self/mountinfo | sort"))
	started := 0
	for i := range 40 {
		spec := sh(root, "grep -o ' /proc[^ ]* ' /proc/self/mountinfo | sort; echo $(cat /proc/sys/kernel/domainname) $(stat -c %t:%T /proc/keys) $(stat -f -c %t /proc/self/attr)")
		below := []string{"attr", "sys/kernel", "kernel"}[i%3]
		spec.Mounts = []executor.Mount{{Target: "/v", Source: src}, {Target: "/v/d/" + below, Type: executor.Tmpfs}}
		spec.Sysctls = map[string]string{"kernel.domainname": "set.test"}
		r, err := tryRun(e, spec)
		if err != nil {
			continue
		}
		started++
		if r.out != plain.out+"set.test 1:3 9fa0\n" {
			t.Errorf("%s: output %q, %q, want %q first", below, r.out, r.err, plain.out)
		}
	}
	if started == 0 {
		t.Error("no sandbox has started: nothing was tried")
	}
}

// What does not fit into a message to the process that sets up the namespaces is an error, and never a process without
// them (CVE-2021-43784); large values that need no such message arrive.
func TestLarge(t *testing.T) { both(t, testLarge) }

func testLarge(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	host, _ := os.Readlink("/proc/self/ns/mnt")
	script := "readlink /proc/self/ns/mnt; echo ${#BIG}; grep -c tmpfs.*/many/ /proc/mounts"
	spec := sh(root, script)
	spec.Process.Env = []string{"BIG=" + strings.Repeat("x", 100<<10)}
	for i := range 150 {
		spec.Mounts = append(spec.Mounts, executor.Mount{Target: fmt.Sprintf("/many/%d/%s", i, strings.Repeat("y", 200)), Type: executor.Tmpfs})
	}
	r := run(t, e, spec)
	if !strings.HasSuffix(r.out, "\n102400\n150\n") || strings.Contains(r.out, host) {
		t.Errorf("output is %q, %q", r.out, r.err)
	}
	long := strings.Repeat("z/", 40<<10)
	for name, change := range map[string]func(*executor.Spec){
		"host name":    func(s *executor.Spec) { s.Hostname = long },
		"cgroup":       func(s *executor.Spec) { s.CgroupPath = long },
		"mount target": func(s *executor.Spec) { s.Mounts = []executor.Mount{{Target: "/" + long, Type: executor.Tmpfs}} },
		"namespace":    func(s *executor.Spec) { s.Network = executor.Network{Mode: executor.NetworkPath, Path: "/" + long} },
		"id":           func(s *executor.Spec) { s.ID = strings.Repeat("i", 65) },
		"mounts": func(s *executor.Spec) {
			for range 300 {
				s.Mounts = append(s.Mounts, executor.Mount{Target: "/m", Source: root})
			}
		},
	} {
		spec := sh(root, "echo started")
		change(spec)
		if r, err := tryRun(e, spec); err == nil {
			t.Errorf("%s: %q, %q", name, r.out, r.err)
		}
	}
}
