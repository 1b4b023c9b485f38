package run_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/solver/session"
)

// holder is a session with secrets and with agents that nobody talks to.
type holder struct {
	mu      sync.Mutex // guards asked
	asked   []string
	secrets map[string]string
	agents  []string
}

func (h *holder) Secret(_ context.Context, id string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, id)
	text, ok := h.secrets[id]
	if !ok {
		return nil, &session.NotFoundError{Kind: "secret", ID: id}
	}
	return []byte(text), nil
}

func (h *holder) CheckSSH(_ context.Context, id string) error {
	if !slices.Contains(h.agents, id) {
		return &session.NotFoundError{Kind: "ssh", ID: id}
	}
	return nil
}

func (h *holder) DialSSH(context.Context, string) (session.Conn, error) {
	return nil, errors.New("nobody is there")
}

// secretAt is the mount of a secret.
func secretAt(dest, id string, mode uint32, uid, gid int) op.ExecMount {
	return op.ExecMount{
		Type: op.MountSecret, Input: op.NoInput, Output: op.NoOutput, Dest: dest,
		Secret: op.SecretMount{ID: id, Mode: mode, UID: uid, GID: gid, Optional: true},
	}
}

// withEnv is v with secrets in the environment. It must be a vertex of sh.
func withEnv(v *solver.Vertex, list ...op.SecretEnv) *solver.Vertex {
	e := *v.Op().(*op.Exec)
	e.Secrets = list
	return solver.NewVertex(&e, v.Inputs(), v.Meta())
}

// TestSecrets checks that a process finds its secrets as files and variables with the right owners and modes, that they
// are part of no layer, and that nothing on the disk has them: no record, snapshot, or file of the daemon's.
func TestSecrets(t *testing.T) {
	r := newRig(t)
	const sentinel = "sentinel-5f2a9c"
	// What the script compares with is a secret too, so that the test itself writes it nowhere.
	h := &holder{secrets: map[string]string{"a": sentinel, "empty": "", "expected": sentinel + sentinel}}
	r.session = h
	v := withEnv(sh(r.busybox(), `
		stat -c '%a %u:%g %s' /run/secrets/a /deep/er/b /empty
		[ "$(cat /run/secrets/a)$(cat /deep/er/b)" = "$EXPECTED" ] && echo same || echo different
		[ "$VAR$VAR" = "$EXPECTED" ] && echo same || echo different
		echo "none=[${NONE-unset}] [${NOWHERE-unset}]"
		(echo x > /run/secrets/a) 2>/dev/null || echo read-only
		[ -e /absent ] || echo absent
		ulimit -c`,
		secretAt("/run/secrets/a", "a", 0o400, 0, 0), secretAt("/deep/er/b", "a", 0o4764, 3, 4),
		secretAt("/empty", "empty", 0o444, 0, 0), secretAt("/absent", "nosuch", 0o400, 0, 0)),
		op.SecretEnv{ID: "a", Name: "VAR"}, op.SecretEnv{ID: "expected", Name: "EXPECTED"},
		op.SecretEnv{ID: "nosuch", Name: "NONE", Optional: true})
	res, log := r.run(v)
	want := "400 0:0 15\n764 3:4 15\n444 0:0 0\nsame\nsame\nnone=[] [unset]\nread-only\nabsent\n0\n"
	if log != want {
		t.Errorf("got %q, want %q", log, want)
	}
	if got := r.changes(res); len(got) > 0 {
		t.Errorf("left in the layer are %q", got)
	}
	if slices.Sort(h.asked); !slices.Equal(h.asked, []string{"a", "empty", "expected", "nosuch"}) {
		t.Errorf("asked for %q, want each once", h.asked)
	}
	if err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the trash is being emptied
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && bytes.Contains(data, []byte(sentinel)) {
			t.Errorf("%s has the secret", path)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestSecretsAreNotInTheKey checks that a step which ran with one secret is not run again for another one, or for none.
func TestSecretsAreNotInTheKey(t *testing.T) {
	r := newRig(t)
	v := withEnv(sh(r.busybox(), "cat /s; echo; echo $E", secretAt("/s", "a", 0o400, 0, 0)), op.SecretEnv{ID: "a", Name: "E", Optional: true})
	for i, text := range []string{"one", "two", ""} {
		h := &holder{secrets: map[string]string{"a": text}}
		if text == "" {
			h.secrets = nil
		}
		r.session = h
		_, log := r.run(v)
		if want := []string{"one\none\n", "", ""}[i]; log != want {
			t.Errorf("with %q the log is %q, want %q", text, log, want)
		}
	}
}

// TestSecretErrors checks what a step says that cannot have its secrets or agents, and that it says nothing of a value.
func TestSecretErrors(t *testing.T) {
	r := newRig(t)
	r.session = &holder{secrets: map[string]string{"nul": "SENTINEL\x00"}}
	required := secretAt("/s", "nosuch", 0o400, 0, 0)
	required.Secret.Optional = false
	agent := op.ExecMount{
		Type: op.MountSSH, Input: op.NoInput, Output: op.NoOutput, Dest: "/agent", SSH: op.SSHMount{ID: "default", Mode: 0o600},
	}
	base := r.busybox()
	for want, v := range map[string]*solver.Vertex{
		"secret nosuch: not found":        sh(base, "true", required),
		"secret other: not found":         withEnv(sh(base, "true"), op.SecretEnv{ID: "other", Name: "X"}),
		"secret nul: it has a NUL byte":   withEnv(sh(base, "true"), op.SecretEnv{ID: "nul", Name: "X"}),
		"unset ssh forward key default: ": sh(base, "true", agent),
	} {
		_, err := r.solve(t.Context(), v)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SENTINEL") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestAgentSocket checks that the socket of an agent is where it is wanted, also below the working directory, with its owner
// and mode; that one that nobody offers is left out; and that after the step nothing is left of it.
func TestAgentSocket(t *testing.T) {
	r := newRig(t)
	r.session = &holder{agents: []string{"default", "second"}}
	mount := func(dest, id string, mode uint32, uid int) op.ExecMount {
		return op.ExecMount{
			Type: op.MountSSH, Input: op.NoInput, Output: op.NoOutput, Dest: dest,
			SSH: op.SSHMount{ID: id, Mode: mode, UID: uid, GID: uid, Optional: true},
		}
	}
	res, log := r.run(sh(r.busybox(), "stat -c '%F %a %u:%g' /run/buildkit/ssh_agent.0 /sub/b; ls /run/buildkit",
		mount("/run/buildkit/ssh_agent.0", "default", 0o600, 0), mount("sub/b", "second", 0o606, 7),
		mount("/run/buildkit/ssh_agent.2", "nosuch", 0o600, 0)))
	if want := "socket 600 0:0\nsocket 606 7:7\nssh_agent.0\n"; log != want {
		t.Errorf("got %q, want %q", log, want)
	}
	if got := r.changes(res); len(got) > 0 {
		t.Errorf("left in the layer are %q", got)
	}
	if left, err := os.ReadDir(filepath.Join(r.dir, "sockets")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// TestSweepSockets checks that sockets of a daemon that was killed go.
func TestSweepSockets(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "ssh-1", "s"), 0o700); err != nil {
		t.Fatal(err)
	}
	run.New(run.Deps{SocketDir: dir})
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// someDevices has one device, which is a variable.
type someDevices struct{ closed int }

func (d *someDevices) Find(name string) ([]executor.NamedDevice, error) {
	if name == "v/c" || name == "v/c=one" {
		return []executor.NamedDevice{{Name: "v/c=one"}}, nil
	}
	return nil, nil
}

func (d *someDevices) Inject(spec *executor.Spec, names []string) (func(), error) {
	spec.Process.Env = append(spec.Process.Env, "DEVICES="+strings.Join(names, ","))
	return func() { d.closed++ }, nil
}

// TestDevices checks that a process gets each device once that it names, that one that is optional may lack, and that what
// was opened for them is closed.
func TestDevices(t *testing.T) {
	r := newRig(t)
	step := func(script string, list ...op.ExecDevice) *solver.Vertex {
		v := sh(r.busybox(), script)
		e := *v.Op().(*op.Exec)
		e.Devices = list
		return solver.NewVertex(&e, v.Inputs(), v.Meta())
	}
	_, log := r.run(step("echo $DEVICES", op.ExecDevice{Name: "v/c"}, op.ExecDevice{Name: "v/c=one"}, op.ExecDevice{Name: "w", Optional: true}))
	if want := "optional device \"w\" is not registered\nv/c=one\n"; log != want {
		t.Errorf("got %q, want %q", log, want)
	}
	if _, err := r.solve(t.Context(), step("true", op.ExecDevice{Name: "w"})); err == nil || !strings.Contains(err.Error(), `required device "w" is not registered`) {
		t.Errorf("got %v", err)
	}
	if r.devices.closed != 1 {
		t.Errorf("closed %d times, want once", r.devices.closed)
	}
}
