package crash

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// api calls the Docker API and returns status and body.
func (h *host) api(method, path string, body []byte, headers ...string) (int, string) {
	h.t.Helper()
	req, err := http.NewRequest(method, "http://docker"+path, bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		req.Header.Set(name, value)
	}
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(h.addr, "unix://"))
		},
	}}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

// put unpacks an archive in a container.
func (h *host) put(id, dir string, archive []byte) (int, string) {
	h.t.Helper()
	return h.api(http.MethodPut, "/containers/"+id+"/archive?path="+url.QueryEscape(dir), archive)
}

// squeeze compresses data with a program of the machine's; nil if there is none.
func squeeze(t *testing.T, data []byte, program string) []byte {
	t.Helper()
	cmd := exec.Command(program, "-c")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return out
}

// TestImagePrograms runs all that the daemon does with a container's files on an image whose programs and libraries, called
// as those that others have run for it, leave a mark: none of them is run or loaded, in the container or outside
// (CVE-2026-41567, CVE-2019-14271, CVE-2022-1227).
func TestImagePrograms(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	mark := "/mark-" + filepath.Base(h.dir) // in the root of whoever runs it
	var entries []entry
	for _, name := range []string{
		"xz", "unxz", "pigz", "unpigz", "gzip", "gunzip", "zstd", "unzstd", "bzip2", "bunzip2", "tar", "ps", "nsenter", "ip", "nft",
		"iptables", "mount", "umount", "git", "modprobe", "runc", "boxshim", "newuidmap", "ldconfig",
	} {
		for _, dir := range []string{"usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"} {
			entries = append(entries, entry{tar.Header{Name: dir + "/" + name, Mode: 0o755}, "#!/bin/busybox sh\necho " + name + " >> " + mark + "\n"})
		}
	}
	for _, lib := range []string{"libnss_files.so.2", "libnss_dns.so.2", "libc.so.6"} {
		entries = append(entries, file("lib/x86_64-linux-gnu/"+lib, "no library"), file("lib64/"+lib, "no library"))
	}
	entries = append(entries, file("etc/nsswitch.conf", "passwd: evil\nhosts: evil\n"), file("etc/ld.so.preload", "/lib64/libc.so.6\n"),
		file("etc/passwd", "root:x:0:0::/:\n"))
	h.image("programs", map[string]any{"Cmd": []string{"/bin/busybox", "sleep", "1000000"}}, nil, entries...)
	archive := writeTar(file("f", "content"))
	for _, running := range []bool{false, true} {
		id := strings.TrimSpace(h.must("", "create", "programs"))
		if running {
			h.must("", "start", id)
			h.must("", "top", id)
			h.must("", "stats", "--no-stream", id)
		}
		for _, program := range []string{"cat", "gzip", "xz", "zstd", "bzip2"} {
			body := archive
			if program != "cat" {
				if body = squeeze(t, archive, program); body == nil {
					t.Logf("no %s here", program)
					continue
				}
			}
			h.must("", "cp", h.context(map[string]string{"f": "old"})+"/f", id+":/tmp.f")
			if code, text := h.put(id, "/", body); code != http.StatusOK {
				t.Errorf("%s: %d %s", program, code, text)
			}
			got, err := readTar(h.must("", "cp", id+":/f", "-"))
			if err != nil || got["f"] != "content" {
				t.Errorf("%s: got %q, %v", program, got, err)
			}
		}
		for _, args := range [][]string{{"diff", id}, {"export", "-o", h.dir + "/out.tar", id}, {"commit", id, "made"}, {"save", "-o", h.dir + "/out.tar", "made"}} {
			h.must("", args...)
		}
		h.mustFail("", []string{"cp", id + ":" + mark, "-"}, "Could not find the file")
		h.must("", "rm", "-f", id)
	}
	packed := squeeze(t, archive, "gzip")
	h.must("", "build", "-q", h.context(map[string]string{"Dockerfile": "FROM programs\nADD x.tar.gz /x/\nCOPY --chown=root x.tar.gz /y\n", "x.tar.gz": string(packed)}))
	r := h.run("FROM programs\nRUN [\"/bin/busybox\", \"ls\", \""+mark+"\"]\n", "build", "--progress", "plain", "-")
	if r.err == nil {
		t.Errorf("a program of the image's was run in a build: %v", r)
	}
	if _, err := os.Lstat(mark); err == nil {
		t.Error("a program of the image's was run by the host")
		_ = os.Remove(mark)
	}
}

// TestCopySwapped copies into and out of containers with mounts while a process exchanges the directory which they are in
// for a link to the canary: no mount of them shows outside (CVE-2026-42306), no mount point is made there (CVE-2026-41568),
// and nothing is read or written there (CVE-2018-15664, CVE-2021-41089).
func TestCopySwapped(t *testing.T) {
	h := newHost(t, "")
	c := newCanary(t)
	h.start()
	h.importBusybox()
	h.must("", "volume", "create", "shared")
	const swap = "cd /s && mkdir -p d/v d/d && while :; do mv d x; ln -s %s d; rm d; mv x d; done"
	loop := strings.TrimSpace(h.must("", "run", "-d", "-v", "shared:/s", "busybox", "sh", "-c", fmt.Sprintf(swap, c.dir)))
	stopped := strings.TrimSpace(h.must("", "create", "-v", "shared:/s", "-v", "inner:/s/d/v", "-v", h.dir+":/s/d/new", "busybox", "true"))
	// One that swaps what is above its own mounts.
	own := strings.TrimSpace(h.must("", "run", "-d", "-v", "shared2:/s", "-v", "inner2:/m/v", "busybox", "sh", "-c", fmt.Sprintf(swap, c.dir)))
	archive := writeTar(file("file", "bad"), file("new", "bad"), entry{tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o777}, ""}, file("d/f", "bad"))
	worked := 0
	for range many(20, 500) {
		for _, id := range []string{stopped, loop, own} {
			for _, dir := range []string{"/s/d", "/s/d/v", "/s/d/new/put"} {
				if code, _ := h.put(id, dir, archive); code == http.StatusOK {
					worked++
				}
			}
			for _, path := range []string{"/s/d/file", "/s/d/.", "/s/d/v"} {
				_, text := h.api(http.MethodGet, "/containers/"+id+"/archive?path="+path, nil)
				_, head := h.api(http.MethodHead, "/containers/"+id+"/archive?path="+path, nil)
				c.check(t, path, text, head)
			}
		}
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", h.daemon.Process.Pid))
		if err != nil || strings.Contains(string(mounts), c.dir) {
			t.Fatalf("the daemon's mounts: %v\n%s", err, mounts)
		}
	}
	if worked == 0 {
		t.Error("no copy has worked: nothing was tried")
	}
	t.Logf("%d copies worked", worked)
	h.must("", "rm", "-f", loop, stopped, own)
}

// TestRestartReplaced starts containers again of whose files one has in the meantime become a link to the canary: the places
// of what every container gets, and those above its mounts (CVE-2015-3629, CVE-2015-3630).
func TestRestartReplaced(t *testing.T) {
	h := newHost(t, "")
	c := newCanary(t)
	h.start()
	h.importBusybox()
	const script = "cat /m/file /m/v/file /etc/hosts /etc/mtab; for d in /m /m/v /dev /etc /run /w/w; do echo x > $d/file; echo x > $d/new; done; sleep 1000000"
	replaced, started := 0, 0
	for i, name := range []string{
		"m", "m/v", "t", "w", "etc", "run", "dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "dev/pts", "dev/shm", "dev/console", "dev/null",
	} {
		to := c.dir
		if i%2 == 1 {
			to = strings.Repeat("../", 30) + c.dir[1:]
		}
		id := strings.TrimSpace(h.must("", "run", "-d", "-t", "-v", "/m/v", "--tmpfs", "/t/t", "-w", "/w/w", "busybox", "sh", "-c", script))
		h.run("", "exec", id, "sh", "-c", "mv /"+name+" /moved; ln -s "+to+" /"+name)
		h.must("", "kill", id)
		// What a process cannot replace, since something is mounted there, a copy into the container that has ended can.
		h.put(id, "/", writeTar(entry{tar.Header{Typeflag: tar.TypeReg, Name: name}, ""}, link(tar.TypeSymlink, name, to)))
		if _, text := h.api(http.MethodGet, "/containers/"+id+"/export", nil); strings.Contains(text, to) {
			replaced++
		}
		r := h.run("", "restart", "-t", "0", id)
		c.check(t, name, r.stdout, r.stderr)
		r = h.run("", "exec", id, "sh", "-c", "cat /proc/self/mountinfo; cat /m/file; [ $(stat -c %t:%T /proc/keys) = 1:3 ] && echo masked")
		c.check(t, name, r.stdout, r.stderr)
		if r.err == nil {
			started++
		}
		if regexp.MustCompile(`(?m)^\d+ \d+ [\d:]+ `+c.dir).MatchString(r.stdout) || r.err == nil && !strings.HasSuffix(r.stdout, "masked\n") {
			t.Errorf("%s is a link: %v", name, r)
		}
		h.must("", "rm", "-f", "-v", id)
		c.check(t, name)
	}
	t.Logf("%d were replaced, %d starts succeeded", replaced, started)
	if replaced < 12 || started < 8 {
		t.Error("that is too few: not much was tried")
	}
}
