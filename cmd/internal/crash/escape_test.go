package crash

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// peek is a shell command that tries to read the canary from wherever it is.
func (c *canary) peek() string {
	return fmt.Sprintf("pwd; for p in . .. ../.. ../../.. ../../../.. ../../../../..; do "+
		"cat $p%[1]s/file; ls $p%[1]s; echo x > $p%[1]s/new; done; cat %[1]s/file; true", c.dir)
}

// TestEscapes builds what wants out of its sandbox or its root file system, by the ways in which other builders were
// left. A build may fail or be confined; nothing outside may be touched or read.
func TestEscapes(t *testing.T) {
	h := newHost(t, "")
	c := newCanary(t)
	h.start()
	h.importBusybox()
	try := func(name string, files map[string]string, args ...string) result {
		t.Helper()
		r := h.run("", append(append([]string{"build", "--progress", "plain", "--no-cache"}, args...), h.context(files))...)
		c.check(t, name, r.stdout, r.stderr)
		return r
	}
	one := func(name, dockerfile string) result {
		t.Helper()
		return try(name, map[string]string{"Dockerfile": dockerfile})
	}

	t.Run("working directory is a descriptor", func(t *testing.T) { // CVE-2024-21626
		for n := 3; n <= 20; n++ {
			r := one("fd", fmt.Sprintf("FROM busybox\nWORKDIR /proc/self/fd/%d\nRUN %s\n", n, c.peek()))
			if strings.Contains(r.stderr, "unreachable") {
				t.Errorf("fd %d: the working directory is outside:\n%s", n, r.stderr)
			}
		}
		// There is one more, which leads nowhere: the directory that ls has read.
		r := one("fds", "FROM busybox\nRUN [\"ls\", \"-l\", \"/proc/self/fd\"]\n")
		if n := strings.Count(r.stderr, " -> "); r.err != nil || n != 3 {
			t.Errorf("descriptors in a sandbox: %v", r)
		}
	})
	t.Run("directories of the image are symlinks", func(t *testing.T) { // CVE-2026-41579, CVE-2025-31133
		up := strings.Repeat("../", 20)
		for _, name := range []string{"dev", "etc", "proc", "sys", "etc/resolv.conf", "etc/hosts", "etc/passwd", "dev/ptmx", "dev/null", "dev/pts", "run"} {
			for _, to := range []string{c.dir, up + c.dir[1:], c.dir + "/passwd"} {
				links := writeTar(link(tar.TypeSymlink, name, to))
				r := try(name+" is a symlink", map[string]string{
					"Dockerfile": "FROM scratch\nCOPY --from=busybox /bin /bin\nADD links.tar /\nRUN " + c.peek() +
						"; echo x > /" + name + "; echo x > /" + name + "/ptmx; ls /" + name + "/\nWORKDIR /" + name + "/new\nUSER 1000\nRUN cat file ../file\n",
					"links.tar": string(links),
				})
				if strings.Contains(r.stderr, "going down") {
					t.Error(r)
				}
			}
		}
	})
	t.Run("mount stubs", func(t *testing.T) { // CVE-2024-23652
		for _, kind := range []string{"tmpfs", "cache", "bind,from=busybox,rw"} {
			one("stub", fmt.Sprintf("FROM busybox\nRUN --mount=type=%s,target=/a/stub mv /a /b && ln -s %s/d /a; ls /a\nRUN --mount=type=%[1]s,target=/a/new ls -l /a; touch /a/new/x\n", kind, c.dir))
			one("stub", fmt.Sprintf("FROM busybox\nRUN ln -s %s /t\nRUN --mount=type=%s,target=/t/new/deep ls /t\nRUN --mount=type=%[2]s,target=/t ls /t\n", c.dir, kind))
		}
	})
	t.Run("sources of mounts and copies", func(t *testing.T) { // CVE-2024-1753
		for _, to := range []string{"/", c.dir, strings.Repeat("../", 20)} {
			stage := "FROM busybox AS stage\nRUN rm -rf /x; ln -s " + to + " /x; ln -s " + c.dir + "/file /f\nFROM busybox\n"
			one("bind", stage+"RUN --mount=type=bind,from=stage,source=/x,target=/m,rw ls /m; cat /m/file /m"+c.dir+"/file; touch /m/new /m"+c.dir+"/new; true\n")
			one("bind below", stage+"RUN --mount=type=bind,from=stage,source=/x"+c.dir+",target=/m,rw cat /m/file; touch /m/new\n")
			one("cache", stage+"RUN --mount=type=cache,from=stage,source=/x,target=/m cat /m/file /m"+c.dir+"/file; touch /m/new; true\n")
			one("copy", stage+"COPY --from=stage /x"+c.dir+"/file /f /got/\nRUN cat /got/*\n")
			try("context", map[string]string{"Dockerfile": "FROM busybox\nCOPY x/ /x/\nRUN cat /x/file /x" + c.dir + "/file\n", "x@": to})
			try("context file", map[string]string{"Dockerfile": "FROM busybox\nCOPY x" + c.dir + "/file /x\nRUN cat /x\n", "x@": to})
			try("context mount", map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=bind,source=x,target=/m,rw cat /m/file; touch /m/new\n", "x@": to})
		}
		try("file", map[string]string{"Dockerfile": "FROM busybox\nCOPY f /f\nRUN cat /f\n", "f@": c.dir + "/file"})
	})
	t.Run("cache mounts", func(t *testing.T) { // CVE-2024-9675, CVE-2024-23651
		for _, id := range []string{"../../../../../.." + c.dir, c.dir, "a/../../..", "."} {
			one("cache id", "FROM busybox\nRUN --mount=type=cache,id="+id+",target=/m ls -a /m; cat /m/file; touch /m/new\n")
		}
		one("cache source", "FROM busybox\nRUN --mount=type=cache,id=q,target=/m ln -sfn "+c.dir+" /m/sub\nRUN --mount=type=cache,id=q,source=sub,target=/m cat /m/file; touch /m/new\n")
	})
	t.Run("users", func(t *testing.T) { // CVE-2024-40635
		for _, user := range []string{"4294967296", "2147483648", "65536:99999999999", "-1", "0x0"} {
			if r := one("user", "FROM busybox\nUSER "+user+"\nRUN id -u\n"); r.err == nil {
				t.Errorf("USER %s is accepted:\n%s", user, r.stderr)
			}
		}
	})
	t.Run("Dockerfile and .dockerignore", func(t *testing.T) { // CVE-2022-4122
		try("Dockerfile", map[string]string{"Dockerfile@": c.dir + "/file"})
		try("Dockerfile by a directory", map[string]string{"x@": c.dir, "a": ""}, "-f", "x/file")
		try(".dockerignore", map[string]string{"Dockerfile": "FROM busybox\nCOPY . /all\nRUN cat /all/.dockerignore\n", ".dockerignore@": c.dir + "/file"})
		try("Dockerfile.dockerignore", map[string]string{"Dockerfile": "FROM busybox\nCOPY . /all\n", "Dockerfile.dockerignore@": c.dir + "/file"})
	})
	h.must("", "version")
	h.must("", "prune", "-af")
}

// TestContextSwapped swaps a directory of the context and a symbolic link to the canary for each other, as fast as it
// can, while the context is copied and mounted.
func TestContextSwapped(t *testing.T) {
	h := newHost(t, "")
	c := newCanary(t)
	h.start()
	h.importBusybox()
	dir := h.context(map[string]string{
		"Dockerfile": "FROM busybox\nCOPY . /all\nCOPY sub/d /d\nCOPY sub/file /f\nRUN --mount=type=bind,target=/m cat /m/sub/*; true\nRUN grep -r . /all /d /f; true\n",
		"sub/file":   "harmless", "sub/d/f": "harmless", "other@": c.dir,
	})
	stop := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := unix.Renameat2(unix.AT_FDCWD, dir+"/sub", unix.AT_FDCWD, dir+"/other", unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	good := 0
	for range 40 {
		r := h.run("", "build", "--progress", "plain", dir)
		if r.err == nil {
			good++
		}
		c.check(t, "swapped", r.stdout, r.stderr)
	}
	close(stop)
	swapper.Wait()
	t.Logf("%d of 40 builds succeeded", good)
}

// TestPermissions checks that nobody else gets at a store, whatever the umask of who started the daemon: layers contain
// set-user-ID programs of strangers (CVE-2021-41091), and the socket is as good as root.
func TestPermissions(t *testing.T) {
	for _, mask := range []int{0, 0o077} {
		t.Run(fmt.Sprintf("umask %03o", mask), func(t *testing.T) {
			h := newHost(t, "")
			old := unix.Umask(mask)
			h.start()
			unix.Umask(old)
			if err := os.Chmod(h.dir, 0o755); err != nil { // what is tested is the root, not the directory above
				t.Fatal(err)
			}
			h.importBusybox()
			h.must("FROM busybox\nRUN cp /bin/busybox /suid && chmod 4755 /suid\n", "build", "-q", "-t", "suid", "-")
			for path, want := range map[string]fs.FileMode{
				h.root: fs.ModeDir | 0o710, h.root + "/logs": fs.ModeDir | 0o700, h.dir + "/sock": fs.ModeSocket | 0o660,
				h.root + "/snapshots": fs.ModeDir | 0o700, h.root + "/blobs": fs.ModeDir | 0o700,
				h.root + "/meta.db": 0o600, h.root + "/cache.db": 0o600, h.root + "/lock": 0o600,
			} {
				st, err := os.Lstat(path)
				if err != nil {
					t.Fatal(err)
				}
				if st.Mode() != want {
					t.Errorf("%s has mode %v, want %v", path, st.Mode(), want)
				}
			}
			found, err := filepath.Glob(h.root + "/snapshots/*/fs/suid")
			if err != nil || len(found) == 0 {
				t.Fatalf("no layer with the program: %v", err)
			}
			for _, gid := range []uint32{65534, 0} {
				for _, args := range [][]string{{"stat", found[0]}, {found[0], "true"}, {"ls", h.root}, {h.bin + "/boxbuild", "--addr", h.addr, "info"}} {
					cmd := exec.Command(args[0], args[1:]...)
					cmd.Dir = "/"
					cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: gid}}
					if gid == 0 && args[0] == h.bin+"/boxbuild" {
						continue // the group of the socket
					}
					if out, err := cmd.CombinedOutput(); err == nil {
						t.Errorf("user 65534, group %d: %v succeeds:\n%s", gid, args, out)
					}
				}
			}
		})
	}
}
