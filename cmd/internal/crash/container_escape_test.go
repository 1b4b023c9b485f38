package crash

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestContainerEscapes runs images that have symbolic links where the daemon makes and mounts something of its own. A
// container may fail to start or be confined; nothing outside its root may be touched or read.
func TestContainerEscapes(t *testing.T) {
	h := newHost(t, "")
	c := newCanary(t)
	h.start()
	h.importBusybox()
	note := filepath.Join(h.dir, "note")
	if err := os.WriteFile(note, []byte("note"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must("", "build", "-q", "-t", "plain", h.context(map[string]string{"Dockerfile": "FROM scratch\nCOPY --from=busybox /bin /bin\n"}))
	n := 0
	try := func(what string, args ...string) string {
		t.Helper()
		r := h.run("", args...)
		c.check(t, what+": boxbuild "+strings.Join(args, " "), r.stdout, r.stderr)
		return r.stdout + r.stderr
	}
	// image has a link at name; more are lines of its Dockerfile.
	image := func(name, to, more string) string {
		t.Helper()
		n++
		tag := fmt.Sprintf("links:%d", n)
		h.must("", "build", "-q", "-t", tag, h.context(map[string]string{
			"Dockerfile": "FROM plain\nADD links.tar /\n" + more, "links.tar": string(writeTar(link(tar.TypeSymlink, name, to))),
		}))
		return tag
	}
	up := strings.Repeat("../", 20) + c.dir[1:]

	t.Run("what every container gets", func(t *testing.T) {
		for _, name := range []string{
			"etc", "proc", "sys", "dev", "run", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/passwd", "etc/mtab",
			"dev/ptmx", "dev/null", "dev/pts", "dev/shm", "dev/console",
		} {
			for _, to := range []string{up, c.dir + "/hosts", c.dir + "/missing"} {
				try(name, "run", "--rm", "-h", "name", "--add-host", "a:192.0.2.1", "--init", image(name, to, ""), "sh", "-c",
					c.peek()+"; for f in "+name+" /etc/hosts /etc/resolv.conf /dev/null; do echo x >/$f; done")
			}
			try(name, "run", "--rm", "-u", "who:group", image(name, c.dir, ""), "id")
		}
	})
	t.Run("targets of mounts", func(t *testing.T) {
		for _, to := range []string{c.dir, up + "/missing"} {
			tag := image("t", to, "")
			for _, target := range []string{"/t", "/t/new", "/t/new/deep", "/t/d"} {
				shell := []string{tag, "sh", "-c", "cat /t/file /t/f /t/d/f; touch " + target + "/x; echo x >/t/y; true"}
				for _, mount := range [][]string{
					{"--tmpfs", target},
					{"-v", target},
					{"-v", "named:" + target},
					{"-v", note + ":" + target},
					{"-v", h.dir + "/docker:" + target},
					{"-w", target},
					{"--read-only", "--tmpfs", target},
					{"--mount", "type=volume,dst=" + target},
					{"--device", "/dev/null:" + target},
				} {
					try("mount", append(append([]string{"run", "--rm", "--network", "none"}, mount...), shell...)...)
				}
				h.run("", "volume", "rm", "named")
			}
			tag = image("t", to, "VOLUME /t /t/new\n")
			try("volume", "run", "--rm", tag, "sh", "-c", "cat /t/file /t/f /t/d/f; touch /t/x /t/new/x")
			try("subpath", "run", "--rm", "-v", "sub:/v", "plain", "ln", "-s", to, "/v/l")
			try("subpath", "run", "--rm", "--mount", "type=volume,src=sub,dst=/m,volume-subpath=l", "plain", "sh", "-c", "cat /m/f /m/file; touch /m/x")
			h.run("", "volume", "rm", "sub")
		}
	})
	t.Run("files and commands of a container that runs", func(t *testing.T) {
		tag := image("t", c.dir, "")
		id := strings.TrimSpace(h.must("", "run", "-d", "-v", "data:/data", tag, "sleep", "1000000"))
		h.must("", "exec", id, "ln", "-s", c.dir, "/data/l")
		for _, dir := range []string{"/t", "/data/l", "/proc/1/root/t", "/proc/self/cwd/t"} {
			try("in", "cp", note, id+":"+dir+"/new")
			try("in", "cp", note, id+":"+dir+"/file")
			try("in", "cp", note, id+":"+dir)
			try("out", "cp", id+":"+dir+"/file", "-")
			try("out", "cp", "-L", id+":"+dir, "-")
			try("exec", "exec", "-w", dir, id, "sh", "-c", "cat file; touch x")
			try("exec", "exec", "-w", dir+"/new/deep", id, "sh", "-c", "cat file; touch x")
		}
		try("user", "exec", "-u", "who", id, "id")
		try("diff", "diff", id)
		try("export", "export", id)
		try("commit", "commit", id, "committed")
		// A directory that is a link every other moment.
		h.must("", "exec", "-d", id, "sh", "-c", "while :; do mkdir /s; rmdir /s; ln -s "+c.dir+" /s; rm /s; done")
		for range 20 {
			try("swapped", "cp", note, id+":/s/new")
			try("swapped", "cp", "-L", id+":/s", "-")
			try("swapped", "exec", "-w", "/s", id, "cat", "file")
		}
		h.must("", "rm", "-f", id)
	})
	h.must("", "version")
}
