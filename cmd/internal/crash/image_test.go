package crash

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// image loads an image of busybox's programs and of entries, with a config of any content and, under "history", a history;
// marks are annotations of its manifest and of its place in the index.
func (h *host) image(name string, config map[string]any, marks map[string]string, entries ...entry) {
	h.t.Helper()
	if h.programs == "" {
		h.programs = h.must("FROM scratch\nCOPY --from=busybox /bin /bin\n", "build", "-q", "-o", "-", "-")
	}
	base := h.programs
	files := map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}
	describe := func(kind string, data []byte) map[string]any {
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		files["blobs/sha256/"+sum] = string(data)
		return map[string]any{"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + sum, "size": len(data)}
	}
	document := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			h.t.Fatal(err)
		}
		return data
	}
	layers := []any{describe("layer.v1.tar", []byte(base)), describe("layer.v1.tar", writeTar(entries...))}
	ids := []any{layers[0].(map[string]any)["digest"], layers[1].(map[string]any)["digest"]}
	conf := describe("config.v1+json", document(map[string]any{
		"os": "linux", "architecture": "amd64", "config": config, "history": config["history"], "rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	}))
	manifest := describe("manifest.v1+json", document(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": conf, "layers": layers, "annotations": marks,
	}))
	all := map[string]string{"io.containerd.image.name": name}
	for k, v := range marks {
		all[k] = v
	}
	manifest["annotations"] = all
	files["index.json"] = string(document(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}}))
	var list []entry
	for name, text := range files {
		list = append(list, file(name, text))
	}
	h.must(string(writeTar(list...)), "load")
}

// TestImageSays runs images that say of themselves what is the user's to say. What was asked for is what they get:
// annotations and labels of other runtimes' make no image a checkpoint (CVE-2026-94603), give no devices (CVE-2026-53492)
// and name no program to run for the log (CVE-2026-53488).
func TestImageSays(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	marker := filepath.Join(h.dir, "marker")
	said := map[string]string{
		"io.podman.annotations.checkpoint.name": "c", "io.podman.annotations.checkpoint.runtime.name": "runc",
		"io.kubernetes.cri-o.annotations.checkpoint.name": "c", "org.criu.checkpoint.container.name": "c",
		"io.podman.annotations.privileged": "TRUE", "io.podman.annotations.seccomp": "unconfined",
		"cdi.k8s.io/x": "vendor.com/d=one", "io.kubernetes.cri-o.Devices": "/dev/kmsg", "run.oci.hooks.stdout": marker,
		"containerd.io/restart.status": "running", "containerd.io/restart.loguri": "binary:///bin/busybox?touch=" + marker,
		"nerdctl/log-uri": "binary:///bin/busybox", "com.docker.volume.anonymous": "", "com.docker.network.endpoint.sysctls": "net.ipv4.ip_forward=1",
		"containerd.io/gc.root": "1", "containerd.io/snapshot.ref": "x", "boxbuild.root": h.dir, "io.containerd.runc.v2.group": "x",
	}
	h.image("says", map[string]any{"Labels": said, "Cmd": []string{"sh"}}, said, file("checkpoint/inventory.img", "x"), file("config.dump", "{}"))
	script := "grep -E '^(Cap(Eff|Bnd)|Seccomp):' /proc/self/status; touch /new || echo read-only; ls /sys/class/net; ls /dev/kmsg; cat /proc/sys/net/ipv4/ip_forward"
	args := []string{"--cap-drop", "ALL", "--read-only", "--network", "none"}
	want := h.must("", append(append([]string{"run", "--rm"}, args...), "busybox", "sh", "-c", script+"; true")...)
	if !strings.Contains(want, "CapBnd:\t0000000000000000") || !strings.Contains(want, "Seccomp:\t2") || !strings.Contains(want, "read-only") {
		t.Fatalf("an ordinary image: %s", want)
	}
	if got := h.must("", append(append([]string{"run", "--rm"}, args...), "says", "sh", "-c", script+"; true")...); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	id := strings.TrimSpace(h.must("", append(append([]string{"create"}, args...), "says")...))
	inspected := h.must("", "inspect", "-f", "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.NetworkMode}} {{.HostConfig.Privileged}} "+
		"{{.HostConfig.LogConfig.Type}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.Devices}} {{.HostConfig.Annotations}} {{.Mounts}}", id)
	if want := "true [ALL] none false json-file no [] map[] []\n"; inspected != want {
		t.Errorf("the container is %q, want %q", inspected, want)
	}
	if label := h.must("", "inspect", "-f", `{{index .Config.Labels "containerd.io/restart.loguri"}}`, id); !strings.HasPrefix(label, "binary://") {
		t.Errorf("its label is %q", label)
	}
	if _, err := os.Lstat(marker); err == nil {
		t.Error("a program of the host's was run")
	}
	h.must("", "rm", id)
	h.must("", "rmi", "says")
}

// TestImageVariables checks that a variable without a value in an image's config has not the daemon's or the client's
// (CVE-2026-57231).
func TestImageVariables(t *testing.T) {
	t.Setenv("SECRET_CANARY", secret)
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	for i, env := range []string{"SECRET_CANARY", "*", "SECRET_*", "=x", "X=${SECRET_CANARY}"} {
		name := fmt.Sprintf("env:%d", i)
		h.image(name, map[string]any{"Env": []string{env, "GOOD=1"}, "Healthcheck": map[string]any{"Test": []string{"CMD", "env"}}}, nil)
		for _, args := range [][]string{
			{"run", "--rm", name, "env"},
			{"run", "--rm", "-e", "OTHER=1", name, "env"},
			{"run", "-d", "--name", "up", name, "sleep", "1000"},
			{"exec", "up", "env"},
			{"inspect", "up"},
			{"rm", "-f", "up"},
		} {
			r := h.run("", args...)
			if strings.Contains(r.stdout+r.stderr, secret) {
				t.Errorf("%q: boxbuild %q: %v", env, args, r)
			}
			if i == 0 && args[len(args)-1] == "env" && !strings.Contains(r.stdout, "GOOD=1\n") {
				t.Errorf("%q: boxbuild %q: %v", env, args, r)
			}
		}
		r := h.run("FROM "+name+"\nENV MORE=1\nRUN env\n", "build", "--progress", "plain", "--no-cache", "-")
		if strings.Contains(r.stdout+r.stderr, secret) {
			t.Errorf("%q: %v", env, r)
		}
	}
}

// TestImageVolumes checks that volumes which an image declares are in its own root, whatever they are called
// (CVE-2022-23648), and never the file systems that isolation is built on (CVE-2019-16884, CVE-2023-28642).
func TestImageVolumes(t *testing.T) {
	h := newHost(t, "")
	c := newCanary(t)
	h.start()
	h.importBusybox()
	up := strings.Repeat("/..", 30)
	for i, path := range []string{up + c.dir, "/x" + up + c.dir, up[1:] + c.dir, "/link", "/link/d", "/rel/d", "."} {
		name := fmt.Sprintf("volume:%d", i)
		h.image(name, map[string]any{"Volumes": map[string]any{path: map[string]any{}}}, nil,
			link(tar.TypeSymlink, "link", c.dir), link(tar.TypeSymlink, "rel", strings.Repeat("../", 30)+c.dir[1:]))
		for _, args := range [][]string{
			{"run", "--rm", name, "sh", "-c", "find / -xdev -name file -o -name ptmx | head; cat /link/file /rel/file " + c.dir + "/file; touch /link/new " + c.dir + "/new"},
			{"run", "--rm", "-v", "kept:" + c.dir, name, "sh", "-c", "cat " + c.dir + "/*"},
			{"volume", "rm", "kept"},
		} {
			r := h.run("", args...)
			c.check(t, path, r.stdout, r.stderr)
		}
	}
	for i, path := range []string{"/proc", "/sys", "/proc/self", "/x/../proc/"} {
		name := fmt.Sprintf("kernel:%d", i)
		h.image(name, map[string]any{"Volumes": map[string]any{path: map[string]any{}}}, nil)
		masked := []string{"sh", "-c", "[ $(stat -c %t:%T /proc/keys) = 1:3 ] && [ $(stat -f -c %t /proc) = 9fa0 ] && [ $(stat -f -c %t /sys) = 62656572 ] && " +
			"[ $(stat -f -c %t /proc/self/attr) = 9fa0 ] && echo masked"}
		for _, args := range [][]string{{name}, {"-v", "named:" + path, "busybox"}, {"-v", h.dir + ":" + path, "busybox"}, {"--tmpfs", path, "busybox"}} {
			if r := h.run("", append(append([]string{"run", "--rm"}, args...), masked...)...); r.err == nil && r.stdout != "masked\n" {
				t.Errorf("%q: %v", args, r)
			}
			h.run("", "volume", "rm", "named")
		}
	}
}
