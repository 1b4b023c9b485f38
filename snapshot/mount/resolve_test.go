package mount

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

// tree makes a directory with links of every hostile kind, beside a canary that none of them may lead to.
func tree(t *testing.T) (root *os.File, canary string) {
	t.Helper()
	dir := t.TempDir()
	canary = filepath.Join(dir, "canary")
	write(t, canary, "canary")
	mkdir(t, dir+"/root/d/e")
	write(t, dir+"/root/d/file", "inside")
	write(t, dir+"/root/canary", "inside")
	for name, to := range map[string]string{
		"abs": "/", "up": "../../..", "loop": "loop", "canary-abs": canary, "canary-up": "../canary",
		"d/e/up": "../../../canary", "file": "/d/file", "magic": "/proc/self/root", "chain": "abs/d/e/up",
	} {
		if err := os.Symlink(to, filepath.Join(dir, "root", name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(dir + "/root")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, canary
}

// Resolve finds what a process whose root is the directory would find, and never anything outside.
func TestResolve(t *testing.T) {
	root, _ := tree(t)
	for path, want := range map[string]string{
		"/d/file": "inside", "d/../d/file": "inside", "../../d/file": "inside", "file": "inside", "abs/file": "inside",
		"abs/abs/abs/d/file": "inside", "up/canary": "inside", "canary-up": "inside", "d/e/up": "inside",
		"chain": "inside", "../canary": "inside",
	} {
		f, err := Resolve(root, path, unix.O_RDONLY)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		got, _ := io.ReadAll(f)
		f.Close()
		if string(got) != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]error{
		"missing": os.ErrNotExist, "canary-abs": os.ErrNotExist, "magic/etc": os.ErrNotExist, "loop": unix.ELOOP,
		"d/file/x": unix.ENOTDIR, "a\x00b": unix.EINVAL,
	} {
		if f, err := Resolve(root, path, unix.O_RDONLY); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", path, err, want)
			f.Close()
		}
	}
	if _, err := ResolveNoSymlinks(root, "abs/d", unix.O_PATH); !errors.Is(err, unix.ELOOP) {
		t.Errorf("without symbolic links: %v, want ELOOP", err)
	}
	f, err := ResolveNoSymlinks(root, "d/e", unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// Resolve stays inside while the path is exchanged with a link to the canary (CVE-2024-11218 and its kin).
func TestResolveRace(t *testing.T) {
	root, canary := tree(t)
	dir := root.Name()
	if err := os.Symlink(filepath.Dir(canary), dir+"/evil"); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/d/canary", "inside")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir+"/d", unix.AT_FDCWD, dir+"/evil", unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 2000 {
		f, err := Resolve(root, "d/canary", unix.O_RDONLY)
		if err != nil {
			continue // the link leads nowhere inside
		}
		got, _ := io.ReadAll(f)
		f.Close()
		if string(got) != "inside" {
			t.Errorf("read %q", got)
			break
		}
	}
	close(stop)
	<-done
}

// Sub of a path that a stage made a link to "/" is the stage's own root (CVE-2024-1753).
func TestSubOfLink(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		dir, _ := tree(t)
		root := open(t, snapshot.Mount{Type: "bind", Source: dir.Name()}, opts...)
		for path, want := range map[string]string{
			"abs": "/d/file", "/up": "/d/file", "d": "/file", "/": "/d/file", "": "/d/file", "..": "/d/file",
		} {
			s, err := Sub(root, path, opts...)
			if err != nil {
				t.Errorf("%q: %v", path, err)
				continue
			}
			if got := read(t, Path(s)+want); got != "inside" {
				t.Errorf("%q: %q", path, got)
			}
			s.Close()
		}
		for _, path := range []string{"canary-abs", "magic", "missing", "loop"} {
			if s, err := Sub(root, path, opts...); err == nil {
				t.Errorf("%q: no error", path)
				s.Close()
			}
		}
		// The first mount is as usable as before.
		if got := read(t, Path(root)+"/d/file"); got != "inside" {
			t.Errorf("the whole: %q", got)
		}
	})
}

// Sub stays what it was when its path is made to lead elsewhere, outlives what it was taken from, and is writable or
// not as asked.
func TestSubIsFixed(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		m := overlay(t, t.TempDir(), 2)
		mkdir(t, m.Lower[0]+"/d")
		write(t, m.Lower[0]+"/d/file", "inside")
		f := open(t, m, opts...)
		rw, err := Sub(f, "d", opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer rw.Close()
		ro, err := Sub(f, "d", append(opts, ReadOnly())...)
		if err != nil {
			t.Fatal(err)
		}
		defer ro.Close()
		if err := os.RemoveAll(Path(f) + "/who"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/", Path(f)+"/who"); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for _, s := range []*os.File{rw, ro} {
			if got := read(t, Path(s)+"/file"); got != "inside" {
				t.Errorf("%s: %q", s.Name(), got)
			}
		}
		write(t, Path(rw)+"/new", "")
		if err := os.WriteFile(Path(ro)+"/new2", nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing to a read-only one: %v", err)
		}
		read(t, m.Upper+"/d/new")
	})
}

// A detached mount can be handed to another process, which attaches it in its own mount namespace.
func TestHandOver(t *testing.T) {
	if os.Getenv("MOUNT_TEST_CHILD") != "" {
		attachReceived(t)
		return
	}
	eachWay(t, func(t *testing.T, opts []Option) {
		m := overlay(t, t.TempDir(), 3)
		whole := open(t, m, opts...)
		s, err := Sub(whole, "who", append(opts, ReadOnly())...)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		child := os.NewFile(uintptr(pair[1]), "child")
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestHandOver$", "-test.v")
		cmd.Env = append(os.Environ(), "MOUNT_TEST_CHILD="+t.TempDir())
		cmd.ExtraFiles = []*os.File{child}
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(whole.Fd()), int(s.Fd())), nil, 0); err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		child.Close()
		unix.Close(pair[0])
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if got := read(t, m.Upper+"/from-child"); got != "0" {
			t.Errorf("the other process wrote %q", got)
		}
	})
}

// attachReceived is the other process of TestHandOver.
func attachReceived(t *testing.T) {
	conn, err := net.FileConn(os.NewFile(3, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	oob := make([]byte, 256)
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		t.Fatal(err)
	}
	target := os.Getenv("MOUNT_TEST_CHILD")
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := Attach(os.NewFile(uintptr(fds[0]), "whole"), target); err != nil {
		t.Fatal(err)
	}
	write(t, target+"/at", "")
	if err := Attach(os.NewFile(uintptr(fds[1]), "part"), target+"/at"); err != nil {
		t.Fatal(err)
	}
	write(t, target+"/from-child", read(t, target+"/at"))
}
