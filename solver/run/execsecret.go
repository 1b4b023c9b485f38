package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/session"
)

// secrets are those that a step has asked its client for, each once. A nil value is one that the client does not have.
type secrets map[string][]byte

// get returns the secret of that ID, and whether there is one. That there is none is an error unless it is optional.
func (s secrets) get(ctx context.Context, id string, optional bool) (data []byte, ok bool, err error) {
	data, asked := s[id]
	if !asked {
		data, err = session.From(ctx).Secret(ctx, id)
		switch {
		case errors.Is(err, session.ErrNotFound):
			data = nil
		case err != nil:
			return nil, false, err
		case data == nil:
			data = []byte{} // an empty one is one
		}
		s[id] = data
	}
	if data == nil && !optional {
		return nil, false, &session.NotFoundError{Kind: "secret", ID: id}
	}
	return data, data != nil, nil
}

// env returns the secrets that go into the environment. One that is optional and not there is empty, as in BuildKit. No
// error has anything of a value.
func (s secrets) env(ctx context.Context, list []op.SecretEnv) ([]string, error) {
	var env []string
	for _, e := range list {
		data, _, err := s.get(ctx, e.ID, e.Optional)
		if err != nil {
			return nil, err
		}
		if slices.Contains(data, 0) {
			return nil, fmt.Errorf("secret %s: it has a NUL byte, which no environment variable can have", e.ID)
		}
		env = append(env, e.Name+"="+string(data))
	}
	return env, nil
}

// secretMount returns the mount of a secret as a file in memory, and whether there is one.
func (s secrets) mount(ctx context.Context, x *op.ExecMount) (executor.Mount, bool, error) {
	if x.Secret.ID == "" {
		return executor.Mount{}, false, errors.New("secret ID missing from mount options")
	}
	data, ok, err := s.get(ctx, x.Secret.ID, x.Secret.Optional)
	if err != nil || !ok {
		return executor.Mount{}, false, err
	}
	mode := x.Secret.Mode & 0o777
	return executor.Mount{
		Type: executor.File, Target: x.Dest, Content: data, UID: x.Secret.UID, GID: x.Secret.GID, Mode: mode,
		ReadOnly: true, NoDev: true, NoSuid: true, NoExec: mode&0o111 == 0,
	}, true, nil
}

// sshPrefix begins the names of directories with sockets, in Deps.SocketDir.
const sshPrefix = "ssh-"

// sshMount mounts a socket that is forwarded to an agent of the client's, and reports whether there is one.
func (r *Runner) sshMount(ctx context.Context, m *execMounts, x *op.ExecMount) (executor.Mount, bool, error) {
	dir := r.deps.SocketDir
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return executor.Mount{}, false, err
		}
	}
	sock, err := session.Listen(ctx, dir, x.SSH.ID, session.SocketFile{
		UID: x.SSH.UID, GID: x.SSH.GID, Mode: os.FileMode(x.SSH.Mode & 0o777),
	})
	if errors.Is(err, session.ErrNotFound) && x.SSH.Optional {
		return executor.Mount{}, false, nil
	}
	if err != nil {
		return executor.Mount{}, false, err
	}
	m.cleanup = append(m.cleanup, func() { _ = sock.Close() }) // what stays is swept at the next start
	fd, err := unix.Open(sock.Path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return executor.Mount{}, false, &os.PathError{Op: "open", Path: sock.Path, Err: err}
	}
	f := os.NewFile(uintptr(fd), sock.Path)
	m.cleanup = append(m.cleanup, func() { f.Close() })
	return executor.Mount{Type: executor.Bind, Target: x.Dest, Source: f}, true, nil
}

// sweepSockets removes what a daemon that was killed has left.
func (r *Runner) sweepSockets() {
	if r.deps.SocketDir == "" {
		return
	}
	for _, dir := range namesIn(r.deps.SocketDir, sshPrefix) {
		_ = os.RemoveAll(dir) // nothing listens there
	}
}

// noCore keeps the memory of processes that know a secret out of files: a core dump would be part of the layer. What the
// user says of core dumps counts more.
func noCore(e *op.Exec, limits []executor.Ulimit) []executor.Ulimit {
	secret := len(e.Secrets) > 0 || slices.ContainsFunc(e.Mounts, func(x op.ExecMount) bool { return x.Type == op.MountSecret })
	said := slices.ContainsFunc(limits, func(u executor.Ulimit) bool { return strings.EqualFold(u.Name, "core") })
	if !secret || said {
		return limits
	}
	return append(limits, executor.Ulimit{Name: "core"})
}
