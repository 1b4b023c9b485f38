package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// TestEntitledContainers checks that a container of a frontend's gets no more than the client has allowed it, whether the
// daemon would or not: neither when it is made, nor for its first process, nor for a later one (CVE-2024-23653,
// GHSA-7236-3392-c5c6). A word that is not known gives nothing. The client gets to know what it is that it may not have.
func TestEntitledContainers(t *testing.T) {
	for _, flags := range [][]string{nil, {"--allow-insecure-entitlement", "security.insecure", "--allow-insecure-entitlement", "network.host"}} {
		d := start(t, flags...)
		d.load()
		for _, allowed := range []string{"", "network.host", "security.insecure"} {
			opt := client.SolveOpt{}
			if allowed != "" {
				if flags == nil {
					continue // the daemon refuses the build: TestBadRequests
				}
				opt.AllowedEntitlements = []string{allowed}
			}
			_, _, err := d.direct(t.Context(), opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
				tryEntitled(ctx, t, c, allowed)
				return gateway.NewResult(), nil
			})
			if err != nil {
				t.Errorf("%q: %v", allowed, err)
			}
		}
	}
}

// tryEntitled starts processes with and without privileges in a build that was allowed one entitlement, or none.
func tryEntitled(ctx context.Context, t *testing.T, c gateway.Client, allowed string) {
	const script = "grep -E '^(CapBnd|Seccomp):' /proc/self/status; readlink /proc/self/ns/net"
	host, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	plain := func(out string) bool {
		return strings.HasPrefix(out, "CapBnd:\t00000000a80425fb\nSeccomp:\t2\n")
	}
	base, err := solved(ctx, c, llb.Image("busybox"), false)
	if err != nil {
		t.Error(err)
		return
	}
	for _, net := range []pb.NetMode{pb.NetMode_UNSET, pb.NetMode_NONE, pb.NetMode_HOST, 99, -1} {
		for _, sec := range []pb.SecurityMode{pb.SecurityMode_SANDBOX, pb.SecurityMode_INSECURE, 2, -1} {
			when := []bool{false}
			if sec != pb.SecurityMode_SANDBOX {
				when = []bool{false, true}
				if net != pb.NetMode_UNSET {
					continue
				}
			}
			for _, later := range when {
				out, err := entitledProcess(ctx, c, base, net, gateway.StartRequest{Args: []string{"/bin/sh", "-c", script}, Cwd: "/", SecurityMode: sec}, later)
				var why string // it may not, in words that BuildKit has too
				switch {
				case net < 0 || net > pb.NetMode_NONE:
					why = fmt.Sprintf("unknown network mode %d", net)
				case sec < 0 || sec > pb.SecurityMode_INSECURE:
					why = fmt.Sprintf("invalid security mode %d", sec)
				case net == pb.NetMode_HOST && allowed != "network.host":
					why = "network.host is not allowed"
				case sec == pb.SecurityMode_INSECURE && allowed != "security.insecure":
					why = "security.insecure is not allowed"
				}
				switch {
				case (err == nil) != (why == "") || err != nil && !strings.Contains(err.Error(), why):
					t.Errorf("%q: network %d, security %d, later %v: %q, %v", allowed, net, sec, later, out, err)
				case err == nil && (strings.Contains(out, host) != (net == pb.NetMode_HOST) || plain(out) != (sec != pb.SecurityMode_INSECURE)):
					t.Errorf("%q: network %d, security %d, later %v: %q", allowed, net, sec, later, out)
				}
			}
		}
	}
	for name, opts := range map[string][]llb.RunOption{
		"network.host": {llb.Network(pb.NetMode_HOST)}, "security.insecure": {llb.Security(pb.SecurityMode_INSECURE)},
	} {
		opts = append(opts, llb.Args([]string{"/bin/true"}), llb.IgnoreCache)
		if _, err := solved(ctx, c, llb.Image("busybox").Run(opts...).Root(), true); (err == nil) != (name == allowed) {
			t.Errorf("%q: a step with %s: %v", allowed, name, err)
		}
	}
}

// entitledProcess starts a process in a container of its own; later, when an ordinary one runs there already.
func entitledProcess(ctx context.Context, c gateway.Client, base gateway.Reference, net pb.NetMode, req gateway.StartRequest, later bool) (string, error) {
	ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{
		NetMode: net, Mounts: []gateway.Mount{{Dest: "/", Ref: base, MountType: pb.MountType_BIND}},
	})
	if err != nil {
		return "", err
	}
	if later {
		in, stdin := io.Pipe()
		defer stdin.Close()
		if _, err := ctr.Start(ctx, gateway.StartRequest{Args: []string{"cat"}, Cwd: "/", Stdin: in, Stdout: nopCloser{io.Discard}}); err != nil {
			return "", errors.Join(err, ctr.Release(ctx))
		}
	}
	out, err := inContainer(ctx, ctr, req)
	return out, errors.Join(err, ctr.Release(ctx))
}

// TestFrontendPaths checks that no path and no name of a result in what a frontend says leads out of what it has solved
// (CVE-2026-33747): the canary outside is not read, and what is no name of a result is none.
func TestFrontendPaths(t *testing.T) {
	d := start(t)
	d.load()
	const secret = "canary-8d2f"
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "file"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	_, _, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		links := "ln -s " + outside + " /abs; ln -s " + up + outside[1:] + " /rel; ln -s / /root; ln -s /proc/1/root /proc-root; ln -s " + outside + "/file /file"
		ref, err := solved(ctx, c, shell(llb.Image("busybox"), links), true)
		if err != nil {
			return nil, err
		}
		ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", Ref: ref, MountType: pb.MountType_BIND}}})
		if err != nil {
			return nil, err
		}
		defer ctr.Release(ctx)
		if _, err := inContainer(ctx, ctr, gateway.StartRequest{Args: []string{"/bin/true"}, Cwd: "/"}); err != nil {
			return nil, err
		}
		for _, p := range []string{
			outside, up + outside[1:], "/abs", "/rel", "/root" + outside, "/proc-root" + outside, "/abs/../.." + outside, "/proc/self/root" + outside, "/proc/1/cwd" + outside,
		} {
			for _, in := range []gateway.Reference{ref, ctrFiles{ctr}} {
				text, err := in.ReadFile(ctx, gateway.ReadRequest{Filename: p + "/file"})
				list, listErr := in.ReadDir(ctx, gateway.ReadDirRequest{Path: p})
				st, statErr := in.StatFile(ctx, gateway.StatRequest{Path: p + "/file"})
				if err == nil || listErr == nil || statErr == nil {
					t.Errorf("%s: read %q, listed %v, described %v", p, text, list, st)
				}
			}
		}
		if text, err := ref.ReadFile(ctx, gateway.ReadRequest{Filename: "/file"}); err == nil {
			t.Errorf("read %q", text)
		}
		for _, id := range []string{"../../x", outside, "/", ".", "sha256:../../x", "a\x00b", strings.Repeat("x", 1<<16)} {
			if ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", ResultID: id, MountType: pb.MountType_BIND}}}); err == nil {
				t.Errorf("%.40q is a result", id)
				_ = ctr.Release(ctx)
			}
		}
		return gateway.NewResult(), nil
	})
	if err != nil {
		t.Error(err)
	}
}

// ctrFiles are the files of a container as a reference has them.
type ctrFiles struct{ gateway.Container }

func (ctrFiles) ToState() (llb.State, error)    { return llb.Scratch(), nil }
func (ctrFiles) Evaluate(context.Context) error { return nil }

func (c ctrFiles) ReadFile(ctx context.Context, r gateway.ReadRequest) ([]byte, error) {
	return c.Container.ReadFile(ctx, gateway.ReadContainerRequest{ReadRequest: r})
}

func (c ctrFiles) StatFile(ctx context.Context, r gateway.StatRequest) (*fstypes.Stat, error) {
	return c.Container.StatFile(ctx, gateway.StatContainerRequest{StatRequest: r})
}

func (c ctrFiles) ReadDir(ctx context.Context, r gateway.ReadDirRequest) ([]*fstypes.Stat, error) {
	return c.Container.ReadDir(ctx, gateway.ReadDirContainerRequest{ReadDirRequest: r})
}
