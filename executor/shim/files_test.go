package shim_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// The identities that USER gives, as id(1) shows them; what is not valid is an error, never root (CVE-2024-40635,
// CVE-2016-3697, CVE-2022-36109). The daemon's own groups are in none of them.
func TestUsers(t *testing.T) { both(t, testUsers) }

func testUsers(t *testing.T, e executor.Executor) {
	root, dir := newRoot(t)
	write(t, filepath.Join(dir, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/home/user:\n4294967296:x:0:0::/:\n", 0o644)
	write(t, filepath.Join(dir, "etc/group"), "root:x:0:\nuser:x:1001:\nextra:x:2000:other,user\nmore:x:2001:user\n", 0o644)
	for _, c := range []struct {
		user   string
		groups []string
		want   string // "" is an error
	}{
		{"", nil, "0 0 0 /root"},
		{"user", nil, "1000 1001 1001 2000 2001 /home/user"},
		{"1000", nil, "1000 1001 1001 2000 2001 /home/user"},
		{"user:extra", nil, "1000 2000 2000 /home/user"},
		{"1000:7", []string{"more", "8"}, "1000 7 7 8 2001 /home/user"},
		{"5000", nil, "5000 0 0 /"},
		{"2147483647", nil, "2147483647 0 0 /"},
		{"4294967296", nil, ""},
		{"2147483648", nil, ""},
		{"65536:99999999999", nil, ""},
		{"0x0", nil, ""},
		{" 0", nil, ""},
		{"-1", nil, ""},
		{"nobody", nil, ""},
		{"user:none", nil, ""},
		{"user", []string{"none"}, ""},
	} {
		spec := sh(root, "echo $(id -u) $(id -g) $(id -G) $HOME")
		spec.Process.User, spec.Process.AddGroups = c.user, c.groups
		r, err := tryRun(e, spec)
		if got := strings.TrimSpace(r.out); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("user %q %q: got %q, %v, want %q", c.user, c.groups, got, err, c.want)
		}
	}
	for _, file := range []string{"passwd", "group"} {
		hostileFile(t, e, root, filepath.Join(dir, "etc", file))
	}
}

// hostileFile puts in the place of a user file what must not be read (CVE-2026-61712): each is an error, soon.
func hostileFile(t *testing.T, e executor.Executor, root *os.File, path string) {
	t.Helper()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func() error{
		"fifo":   func() error { return unix.Mkfifo(path, 0o644) },
		"device": func() error { return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
		"huge":   func() error { return os.Truncate(path, 2<<30) },
		"line":   func() error { return os.WriteFile(path, []byte(strings.Repeat("x", 8<<20)), 0o644) },
	} {
		_ = os.Remove(path)
		if name == "huge" {
			write(t, path, "", 0o644)
		}
		if err := make(); err != nil {
			t.Fatal(err)
		}
		spec := sh(root, "id")
		spec.Process.User = "user"
		if r, err := tryRun(e, spec); err == nil {
			t.Errorf("%s as %s: %q", name, path, r.out)
		}
	}
	_ = os.Remove(path)
	write(t, path, string(good), 0o644)
}

// Mounts appear with their contents and flags, and a read-only one also at what is mounted below its source.
func TestMounts(t *testing.T) { both(t, testMounts) }

func testMounts(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	src := t.TempDir()
	write(t, filepath.Join(src, "file"), "from the host\n", 0o644)
	if err := os.Mkdir(filepath.Join(src, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("sub", filepath.Join(src, "sub"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(src, "sub"), unix.MNT_DETACH) })
	spec := sh(root, "cat /ro/file /f /secret; echo x > /ro/x || echo ro; echo x > /ro/sub/x || echo ro; echo changed > /rw/file; "+
		"echo x > /f || echo rof; stat -c '%a %u %g' /secret /tmpfs; grep -E ' /(tmpfs|rw) ' /proc/mounts; cat /etc/resolv.conf; [ -s /etc/hosts ] || echo none")
	spec.Mounts = []executor.Mount{
		{Target: "/ro", Source: open(t, src), ReadOnly: true},
		{Target: "/rw", Source: open(t, src), NoExec: true, NoSuid: true, NoDev: true},
		{Target: "/f", Source: open(t, filepath.Join(src, "file")), ReadOnly: true},
		{Target: "/secret", Type: executor.File, Content: []byte("secret\n"), Mode: 0o400, UID: 12, GID: 13, ReadOnly: true},
		{Target: "/tmpfs", Type: executor.Tmpfs, Size: 1 << 20, Mode: 0o700, UID: 5, GID: 6, NoExec: true},
	}
	spec.ResolvConf = []byte("nameserver 192.0.2.1\n")
	r := run(t, e, spec)
	want := "from the host\nfrom the host\nsecret\nro\nro\nrof\n400 12 13\n700 5 6\n"
	if !strings.HasPrefix(r.out, want) || !strings.HasSuffix(r.out, "nameserver 192.0.2.1\nnone\n") {
		t.Errorf("output is %q, %q", r.out, r.err)
	}
	if !strings.Contains(r.out, "tmpfs /tmpfs tmpfs rw,noexec,relatime,size=1024k,mode=700,uid=5,gid=6") ||
		!regexp.MustCompile(` /rw \w+ rw,nosuid,nodev,noexec`).MatchString(r.out) { // whatever file system tests are on
		t.Errorf("mounts are %q", r.out)
	}
	data, _ := os.ReadFile(filepath.Join(src, "file"))
	if string(data) != "changed\n" {
		t.Errorf("the file on the host is %q", data)
	}
}

// A read-only root can't be written to, and a working directory that lacks is made; PATH and HOME are added if they
// lack, and nothing else is (CVE-2026-57231).
func TestRootAndEnvironment(t *testing.T) { both(t, testRootAndEnvironment) }

func testRootAndEnvironment(t *testing.T, e executor.Executor) {
	root, dir := newRoot(t)
	t.Setenv("SECRET_CANARY", "leaked")
	spec := sh(root, "")
	spec.Process.Args = []string{"/bin/env"}
	spec.Process.Env = []string{"A=1", "A=2", "B="}
	if r := run(t, e, spec); r.out != "A=2\nB=\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/root\n" {
		t.Errorf("the environment is %q", r.out)
	}
	spec.ReadOnly = true
	spec.Process.Args = []string{"/bin/sh", "-c", "echo x > /x || pwd"}
	spec.Process.Cwd = "/new/dir"
	if r := run(t, e, spec); r.out != "/new/dir\n" {
		t.Errorf("output is %q, %q", r.out, r.err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "new/dir")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("the working directory is %v, %v", fi, err)
	}
	for _, env := range []string{"SECRET_CANARY", "*", "=x", "A\x00B=1"} {
		spec := sh(root, "env")
		spec.Process.Env = []string{env}
		if r, err := tryRun(e, spec); err == nil {
			t.Errorf("%q: %q", env, r.out)
		}
	}
}

// The root may be a detached mount, which can be used again, and is then not attached anywhere.
func TestDetachedRoot(t *testing.T) { both(t, testDetachedRoot) }

func testDetachedRoot(t *testing.T, e executor.Executor) {
	_, dir := newRoot(t)
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	mount := os.NewFile(uintptr(fd), "mount")
	defer mount.Close()
	uses := 2
	if !shim.CanCopyDetached(mount) {
		uses = 1
	}
	for range uses {
		if r := run(t, e, sh(mount, "echo fine")); r.out != "fine\n" {
			t.Errorf("%+v", r)
		}
	}
	// As on a kernel before 6.15: the mount itself is attached, once.
	shim.OldKernel(t)
	fd, err = unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	once := os.NewFile(uintptr(fd), "mount")
	defer once.Close()
	if r := run(t, e, sh(once, "echo fine")); r.out != "fine\n" {
		t.Errorf("on an old kernel: %+v", r)
	}
}
