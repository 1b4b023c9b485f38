package run_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// step runs a script with mounts besides the root, whose inputs are numbered from 1. change may change the operation.
func step(base *solver.Vertex, inputs []*solver.Vertex, script string, change func(*op.Exec)) *solver.Vertex {
	v := shWith(base, inputs, script)
	e := v.Op().(*op.Exec)
	change(e)
	return solver.NewVertex(e, v.Inputs(), solver.Meta{Name: script})
}

// output is a vertex with one output of another.
func output(v *solver.Vertex, n int) *solver.Vertex {
	return solver.NewVertex(&op.Passthrough{Out: []int{0}}, []solver.Input{{Vertex: v, Output: n}}, solver.Meta{Name: "output"})
}

// TestExecMounts checks what each kind of mount of a definition shows, and what its output has.
func TestExecMounts(t *testing.T) {
	r := newRig(t)
	base := r.busybox()
	bare := fileStep(base, op.FileAction{Rm: &op.Rm{Path: "/etc"}})
	data := mkfile(mkdir(nil, "/in", 0o755), "/in/f", 0o644, "data")
	several := step(base, []*solver.Vertex{data}, "echo r > /r; echo m > /m/x; echo n > /n/y; rm /n/in/f", func(e *op.Exec) {
		e.Mounts = append(e.Mounts, op.ExecMount{Input: op.NoInput, Dest: "/m", Output: 1}, op.ExecMount{Input: 1, Dest: "/n", Output: 2})
	})
	r.check(t, []treeCase{
		{"empty input", output(several, 1), []content{wantFile("/x", 0o644, "m\n")}},
		{"input", output(several, 2), []content{wantDir("/in", 0o755), wantFile("/y", 0o644, "n\n")}},
		{
			"read-only root that lacks mount points", step(bare, nil, "touch /no 2>/dev/null && exit 1; echo x > /new/mnt/f", func(e *op.Exec) {
				e.Mounts = []op.ExecMount{
					{Input: 0, Dest: "/", Output: op.NoOutput, ReadOnly: true},
					{Input: op.NoInput, Dest: "/new/mnt", Output: 0},
				}
			}), []content{wantFile("/f", 0o644, "x\n")},
		},
		{
			"read-only with an output", step(base, []*solver.Vertex{data}, "cat /m/in/f; touch /m/no 2>/dev/null && exit 1; true", func(e *op.Exec) {
				e.Mounts = []op.ExecMount{
					{Input: 0, Dest: "/", Output: op.NoOutput}, {Input: 1, Dest: "/m", Output: 0, ReadOnly: true},
				}
			}), []content{wantOf(data)},
		},
		{
			"part of an input with an output", step(base, []*solver.Vertex{data}, "echo more > /m/g", func(e *op.Exec) {
				e.Mounts = []op.ExecMount{
					{Input: 0, Dest: "/", Output: op.NoOutput}, {Input: 1, Selector: "in", Dest: "/m", Output: 0},
				}
			}), []content{wantOf(data), wantFile("/in/g", 0o644, "more\n")},
		},
		{
			"one in another, inner first", step(base, nil, "echo in > /m/n/x; echo out > /m/y", func(e *op.Exec) {
				e.Mounts = []op.ExecMount{
					{Input: op.NoInput, Dest: "/m/n", Output: op.NoOutput},
					{Input: op.NoInput, Dest: "/m", Output: 0},
					{Input: 0, Dest: "/", Output: op.NoOutput},
				}
			}), []content{wantDir("/n", 0o755), wantFile("/y", 0o644, "out\n")},
		},
		{
			"writes without an output", step(base, []*solver.Vertex{data}, "echo x > /m/in/f; cat /m/in/f", func(e *op.Exec) {
				e.Mounts = []op.ExecMount{{Input: 0, Dest: "/", Output: op.NoOutput}, {Input: 1, Dest: "/m", Output: op.NoOutput}, {Input: 1, Dest: "/n", Output: 0}}
			}), []content{wantOf(data)},
		},
	})
	for name, change := range map[string]func(*op.Exec){
		"no root": func(e *op.Exec) { e.Mounts = []op.ExecMount{{Input: 0, Dest: "/m", Output: 0}} },
		"missing selector": func(e *op.Exec) {
			e.Mounts = append(e.Mounts, op.ExecMount{Input: 1, Selector: "/no", Dest: "/m", Output: op.NoOutput})
		},
		"unknown type": func(e *op.Exec) {
			e.Mounts = append(e.Mounts, op.ExecMount{Input: 1, Type: 77, Dest: "/m", Output: op.NoOutput})
		},
		"output of a tmpfs": func(e *op.Exec) {
			e.Mounts = append(e.Mounts, op.ExecMount{Input: op.NoInput, Type: op.MountTmpfs, Dest: "/m", Output: 1})
		},
		"unknown network": func(e *op.Exec) { e.Network = 9 },
	} {
		if _, err := r.solve(t.Context(), step(base, []*solver.Vertex{data}, "true "+name, change)); err == nil {
			t.Errorf("%s: it ran", name)
		}
	}
}

// TestExecMeta checks what a process sees of its ExecMeta, and which of its ends are successes.
func TestExecMeta(t *testing.T) {
	r := newRig(t)
	base := r.busybox()
	for _, tt := range []struct {
		name, script string
		change       func(*op.Exec)
		want         string // of the log; "" for a failure
	}{
		{"hostname", "hostname; grep -c there /etc/hosts", func(e *op.Exec) {
			e.Meta.Hostname, e.Meta.ExtraHosts = "here", []op.HostIP{{Host: "there", IP: "192.0.2.1"}}
		}, "here\n1\n"},
		{"ulimit", "ulimit -Sn; ulimit -Hn", func(e *op.Exec) {
			e.Meta.Ulimits = []op.Ulimit{{Name: "nofile", Soft: 77, Hard: 99}}
		}, "77\n99\n"},
		{"shm", "df -k /dev/shm | tail -1 | awk '{print $2}'", func(e *op.Exec) { e.Meta.ShmSize = 2 << 20 }, "2048\n"},
		{"cwd and user", "pwd; id -u; id -g", func(e *op.Exec) { e.Meta.Cwd, e.Meta.User = "/tmp", "7:8" }, "/tmp\n7\n8\n"},
		{"proxy", "echo $HTTP_PROXY $http_proxy $no_proxy $ALL_PROXY", func(e *op.Exec) {
			e.Meta.Proxy = &op.ProxyEnv{HTTP: "p", No: "n", All: "a"}
		}, "p p n a\n"},
		{"valid exit", "echo x; exit 7", func(e *op.Exec) { e.Meta.ValidExitCodes = []int{0, 7} }, "x\n"},
		{"no valid zero", "exit 0", func(e *op.Exec) { e.Meta.ValidExitCodes = []int{7} }, ""},
		{"other exit", "exit 8", func(e *op.Exec) { e.Meta.ValidExitCodes = []int{7} }, ""},
		{"tmpfs size", "df -k /t | tail -1 | awk '{print $2}'", func(e *op.Exec) {
			e.Mounts = append(e.Mounts, op.ExecMount{Input: op.NoInput, Type: op.MountTmpfs, Tmpfs: 1 << 20, Dest: "/t", Output: op.NoOutput})
		}, "1024\n"},
		{"memory", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | head -1", func(e *op.Exec) {
			e.Limits.Memory = 64 << 20
		}, "67108864\n"},
	} {
		_, err := r.solve(t.Context(), step(base, nil, "true; "+tt.script, tt.change))
		if (err == nil) != (tt.want != "") {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := r.log.String(); !strings.HasSuffix(got, tt.want) {
			t.Errorf("%s: the log ends in %q, want %q", tt.name, got[max(0, len(got)-60):], tt.want)
		}
	}
}

// TestHostilePaths checks that no path of a file operation, a mount or a merge reaches out of its tree, whatever links are
// in it: a file that every one of them tries for stays as it is.
func TestHostilePaths(t *testing.T) {
	r := newRig(t)
	base := r.busybox()
	out := t.TempDir()
	victim := filepath.Join(out, "victim")
	if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := "../../../../../../../../../../.."
	links := base
	for name, to := range map[string]string{"/abs": out, "/rel": up + out, "/file": victim, "/loop": "/loop", "/up": up} {
		links = fileStep(links, op.FileAction{Symlink: &op.Symlink{Old: to, New: name}})
	}
	links = r.vertexOf(links)
	src := mkfile(mkfile(nil, "/x", 0o644, "evil"), "/victim", 0o644, "evil")
	for _, dir := range []string{"/abs", "/rel", "/up" + out, up + out, out, "/file", "/loop", "/abs/.."} {
		for name, a := range map[string]op.FileAction{
			"mkfile":  {Mkfile: &op.Mkfile{Path: dir + "/victim", Data: []byte("evil"), Mode: 0o777}},
			"mkfile.": {Mkfile: &op.Mkfile{Path: dir, Data: []byte("evil"), Mode: 0o777}},
			"mkdir":   {Mkdir: &op.Mkdir{Path: dir + "/made", Mode: 0o777, Parents: true}},
			"symlink": {Symlink: &op.Symlink{Old: "x", New: dir + "/made"}},
			"rm":      {Rm: &op.Rm{Path: dir + "/victim"}},
			"rm *":    {Rm: &op.Rm{Path: dir + "/*", Wildcard: true}},
		} {
			_, _ = r.solve(t.Context(), fileStep(links, a)) // whether it works depends on the tree; so with the others
			r.safe(victim, name+" "+dir)
		}
		for _, replace := range []bool{false, true} {
			cp := solver.NewVertex(&op.File{Actions: []op.FileAction{{
				Input: 0, Second: 1, Output: 0,
				Copy: &op.Copy{Src: "/", Dst: dir, DirContents: true, MkdirDst: true, AlwaysReplace: replace},
			}}}, []solver.Input{{Vertex: links}, {Vertex: src}}, solver.Meta{Name: "copy"})
			_, _ = r.solve(t.Context(), cp)
			r.safe(victim, "copy "+dir)
		}
		_, _ = r.solve(t.Context(), shWith(base, []*solver.Vertex{links}, "echo evil > /m/victim; rm -f /m/victim",
			op.ExecMount{Input: 1, Selector: dir, Dest: "/m", Output: op.NoOutput}))
		r.safe(victim, "mount of "+dir)
		_, _ = r.solve(t.Context(), shWith(links, nil, "echo evil > "+dir+"/m/victim; rm -f "+dir+"/m/victim",
			op.ExecMount{Input: op.NoInput, Dest: dir + "/m", Output: op.NoOutput}))
		r.safe(victim, "mount at "+dir)
	}
	evil := mkfile(mkdir(nil, "/abs", 0o777), "/abs/victim", 0o777, "evil")
	for name, v := range map[string]*solver.Vertex{
		"merge":      merge(links, evil),
		"merge rm":   merge(links, diff(evil, rm(evil, "/abs/victim"))),
		"merge file": merge(links, mkfile(nil, "/file", 0o777, "evil")),
		"diff":       diff(links, merge(links, evil)),
	} {
		if _, err := r.solve(t.Context(), v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.safe(victim, name)
	}
	device := sh(base, "mknod /disk b 7 0; mknod /null c 1 3")
	if _, err := r.solve(t.Context(), merge(links, diff(base, device))); err != nil {
		t.Errorf("a merge of devices: %v", err)
	}
}

// vertexOf solves v, so that what is built on it need not.
func (r *rig) vertexOf(v *solver.Vertex) *solver.Vertex {
	r.t.Helper()
	r.snapshotOf(v)
	return v
}

// safe checks that a file and its directory are as they were.
func (r *rig) safe(victim, after string) {
	r.t.Helper()
	data, err := os.ReadFile(victim)
	names, derr := os.ReadDir(filepath.Dir(victim))
	if err != nil || derr != nil || string(data) != "safe" || len(names) != 1 {
		r.t.Fatalf("after %s the host has %q, %v in %v", after, data, err, names)
	}
}
