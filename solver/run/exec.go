package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// defaultHostname is what BuildKit calls a build's sandbox; it is seen by what runs, so it has to be the same.
const defaultHostname = "buildkitsandbox"

// runExec runs a process and commits what it wrote to each mount that has an output.
func (r *Runner) runExec(ctx context.Context, step *solver.Step, e *op.Exec) ([]solver.Result, error) {
	m, err := r.mountExec(ctx, step, e)
	defer m.close(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := r.spec(ctx, e, m)
	if err != nil {
		return nil, err
	}
	release, err := r.emulate(ctx, e, spec)
	if err != nil {
		return nil, err
	}
	defer release()
	done, err := r.addDevices(step, e, spec)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := r.process(ctx, step, e, spec); err != nil {
		return nil, m.left(ctx, err)
	}
	return m.commit(ctx, e.Outputs())
}

// process runs the sandbox to its end. When it returns nothing of it is left.
func (r *Runner) process(ctx context.Context, step *solver.Step, e *op.Exec, spec *executor.Spec) (err error) {
	said := &firstWords{w: logWriter{step, solver.Stderr}}
	sb, err := r.deps.Executor.Start(ctx, spec, executor.IO{Stdout: logWriter{step, solver.Stdout}, Stderr: said})
	if err != nil {
		why := onlyWindows(ctx, e, err)
		var start *executor.StartError
		if why == nil && errors.As(err, &start) {
			return r.startFailure(ctx, step, e, start)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if why != nil {
			err = why
		}
		return fmt.Errorf("process %q did not complete successfully: %w", strings.Join(e.Meta.Args, " "), err)
	}
	defer func() { err = errors.Join(err, sb.Close()) }()
	exit, err := sb.Wait(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("waiting for the sandbox: %w", err)
	}
	valid := e.Meta.ValidExitCodes
	if len(valid) == 0 {
		valid = []int{0}
	}
	if slices.Contains(valid, exit.Code) {
		return nil // also where a process that nobody depended on was killed for want of memory
	}
	if exit.Code == 0 {
		return fmt.Errorf("process %q did not complete successfully: exit code: 0", strings.Join(e.Meta.Args, " "))
	}
	if exit.Code == execFailed {
		if err := r.foreign(ctx, e, said.text); err != nil {
			return err
		}
	}
	return exit.Err(e.Meta.Args, e.Limits.Memory)
}

// logWriter hands what a process writes to the step's log.
type logWriter struct {
	step   *solver.Step
	stream solver.Stream
}

func (w logWriter) Write(p []byte) (int, error) {
	w.step.Log(w.stream, p)
	return len(p), nil
}

// spec describes the sandbox of e.
func (r *Runner) spec(ctx context.Context, e *op.Exec, m *execMounts) (*executor.Spec, error) {
	secretEnv, err := m.secrets.env(ctx, e.Secrets)
	if err != nil {
		return nil, err
	}
	if err := checkSecurity(e.Security); err != nil {
		return nil, err
	}
	s := &executor.Spec{
		ID:       newName(),
		Hostname: e.Meta.Hostname,
		Root:     m.root,
		ReadOnly: m.rootReadOnly,
		Process: executor.Process{
			Args: e.Meta.Args,
			Env:  slices.Concat(e.Meta.Env, proxyEnv(e.Meta.Proxy), secretEnv),
			Cwd:  e.Meta.Cwd,
			User: e.Meta.User,
			// Who may do everything may do so as any user, as with BuildKit.
			Ambient: e.Security == op.SecurityInsecure,
		},
		Mounts:     m.mounts,
		CgroupPath: e.Meta.CgroupParent,
		ShmSize:    e.Meta.ShmSize,
		Privileged: e.Security == op.SecurityInsecure,
		Limits: executor.Limits{
			Memory:     e.Limits.Memory,
			MemorySwap: e.Limits.MemorySwap,
			CPUShares:  uint64(max(e.Limits.CPUShares, 0)),
			CPUQuota:   e.Limits.CPUQuota,
			CPUPeriod:  uint64(max(e.Limits.CPUPeriod, 0)),
			CPUSetCPUs: e.Limits.CPUSetCPUs,
			CPUSetMems: e.Limits.CPUSetMems,
		},
	}
	if s.CgroupPath == "" {
		s.CgroupPath = r.deps.CgroupPath
	}
	if s.Hostname == "" {
		s.Hostname = defaultHostname
	}
	resolv := r.deps.HostResolvConf
	switch e.Network {
	case op.NetworkSandbox:
		s.Network.Mode = executor.NetworkBridge
		resolv = r.deps.ResolvConf
	case op.NetworkHost:
		s.Network.Mode = executor.NetworkHost
	case op.NetworkNone:
		// The file is of no use there, but what a process writes to it is to be in the image as little as elsewhere.
		s.Network.Mode = executor.NetworkNone
	default:
		return nil, fmt.Errorf("unknown network mode %d", e.Network)
	}
	if resolv != nil {
		if s.ResolvConf, err = resolv(); err != nil {
			return nil, fmt.Errorf("preparing name resolution: %w", err)
		}
	}
	for _, u := range e.Meta.Ulimits {
		s.Ulimits = append(s.Ulimits, executor.Ulimit{Name: u.Name, Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	s.Ulimits = noCore(e, s.Ulimits)
	s.Hosts = hostsFile(s.Hostname, e.Meta.ExtraHosts)
	return s, nil
}

// checkSecurity refuses what is no mode: it would be a sandbox of which nobody knows how tight it was to be.
func checkSecurity(mode op.Security) error {
	if mode != op.SecuritySandbox && mode != op.SecurityInsecure {
		return fmt.Errorf("invalid security mode %d", mode)
	}
	return nil
}

// hostsFile is /etc/hosts of a build's sandbox, as BuildKit writes it.
func hostsFile(hostname string, extra []op.HostIP) []byte {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost " + hostname + "\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, h := range extra {
		b.WriteString(h.IP + "\t" + h.Host + "\n")
	}
	return []byte(b.String())
}

// proxyEnv is the environment for p, each variable in both cases.
func proxyEnv(p *op.ProxyEnv) []string {
	if p == nil {
		return nil
	}
	var env []string
	for _, v := range []struct{ name, value string }{
		{"HTTP_PROXY", p.HTTP},
		{"HTTPS_PROXY", p.HTTPS},
		{"FTP_PROXY", p.FTP},
		{"NO_PROXY", p.No},
		{"ALL_PROXY", p.All},
	} {
		if v.value != "" {
			env = append(env, v.name+"="+v.value, strings.ToLower(v.name)+"="+v.value)
		}
	}
	return env
}
