package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit"
	"github.com/boxbuild/boxbuild/worker/gc"
	"github.com/boxbuild/boxbuild/worker/telemetry"
)

// newTelemetry returns what the configuration and the environment want to be told.
func newTelemetry(ctx context.Context, cfg *config.Daemon, images worker.Images, log *slog.Logger) (*telemetry.Telemetry, error) {
	return telemetry.New(ctx, telemetry.Options{
		Version: version, Log: log, Metrics: cfg.GRPC.DebugAddress != "", Usage: images.DiskUsage, Getenv: os.Getenv,
	})
}

// operate returns b as operators want it: its builds are told of, and what the cache has too much of goes after them.
func (w *wiring) operate(ctx context.Context, b worker.Builder, images worker.Images) (worker.Builder, *telemetry.Telemetry, error) {
	t, err := newTelemetry(ctx, w.cfg, images, w.log)
	if err != nil {
		return nil, nil, err
	}
	opt := gc.Options{Images: images, Rules: w.gcRules, FreeSpace: w.freeSpace, Log: w.log}
	if t.Metrics != nil {
		opt.Report = t.Metrics.Collected
	}
	c := gc.New(opt)
	w.onClose(c.Close)
	if !w.cfg.Frontends.Dockerfile.On() {
		b = &noDockerfiles{b}
	}
	return t.Wrap(c.Wrap(&gateways{b, w.hostGateway})), t, nil
}

// gateways puts the host's address in place of host-gateway in the hosts of a build.
type gateways struct {
	worker.Builder
	addr func() netip.Addr
}

// Build implements worker.Builder.
func (g *gateways) Build(
	ctx context.Context, req *worker.BuildRequest, events func(solver.Event),
) (*worker.BuildResult, error) {
	is := func(h op.HostIP) bool { return h.IP == worker.HostGateway }
	if !slices.ContainsFunc(req.Frontend.ExtraHosts, is) {
		return g.Builder.Build(ctx, req, events)
	}
	a := g.addr()
	if !a.IsValid() {
		return nil, &frontend.UsageError{Message: "unable to derive the IP value for " + worker.HostGateway}
	}
	own := *req
	own.Frontend.ExtraHosts = slices.Clone(req.Frontend.ExtraHosts)
	for i, h := range own.Frontend.ExtraHosts {
		if is(h) {
			own.Frontend.ExtraHosts[i].IP = a.String()
		}
	}
	return g.Builder.Build(ctx, &own, events)
}

// hostGateway is the address by which steps of builds reach the host: what the configuration says, or their bridge's. The
// zero Addr if builds have no bridge.
func (w *wiring) hostGateway() netip.Addr {
	if list, err := w.cfg.Bridge.Gateways(); err == nil && len(list) > 0 {
		return list[0]
	}
	if w.network == nil {
		return netip.Addr{}
	}
	p, err := w.network.Gateway()
	if err != nil {
		w.log.Debug("looking for the host's address on the bridge of builds", "error", err)
		return netip.Addr{}
	}
	return p.Addr()
}

// noDockerfiles refuses builds with the daemon's own frontend.
type noDockerfiles struct{ worker.Builder }

// Build implements worker.Builder.
func (b *noDockerfiles) Build(
	ctx context.Context, req *worker.BuildRequest, events func(solver.Event),
) (*worker.BuildResult, error) {
	if req.Use == nil || req.Origin.Frontend == dockerfileFrontend {
		return nil, &frontend.UsageError{Message: "the frontend " + dockerfileFrontend + " is disabled on this daemon"}
	}
	return b.Builder.Build(ctx, req, events)
}

// dockerfileFrontend is what BuildKit's clients call the frontend that reads Dockerfiles.
const dockerfileFrontend = "dockerfile.v0"

// gcRules are those of the configuration, in bytes of the disk that the store is on.
func (w *wiring) gcRules() ([]gc.Rule, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(w.cfg.Root, &st); err != nil {
		return nil, fmt.Errorf("asking how large the disk is: %w", err)
	}
	disk := int64(st.Blocks) * st.Bsize
	var out []gc.Rule
	for _, r := range w.cfg.GCRules(disk) {
		out = append(out, gc.Rule{
			All: r.All, Filters: r.Filters, KeepFor: time.Duration(r.KeepDuration), Reserved: r.ReservedSpace.Of(disk),
			MaxUsed: r.MaxUsedSpace.Of(disk), MinFree: r.MinFreeSpace.Of(disk),
		})
	}
	return out, nil
}

// workerGC are the same rules as clients of BuildKit are told them.
func (w *wiring) workerGC() ([]buildkit.GCRule, error) {
	rules, err := w.gcRules()
	var out []buildkit.GCRule
	for _, r := range rules {
		out = append(out, buildkit.GCRule{
			All: r.All, Filter: r.Filters, KeepDuration: r.KeepFor, ReservedSpace: r.Reserved, MaxUsedSpace: r.MaxUsed,
			MinFreeSpace: r.MinFree,
		})
	}
	return out, err
}

// resolvConf writes the configuration of resolvers for sandboxes, if there is one, and returns its path; else "".
func (w *wiring) resolvConf() (string, error) {
	dns := &w.cfg.DNS
	if len(dns.Nameservers)+len(dns.Options)+len(dns.Search) == 0 {
		return "", nil
	}
	var b strings.Builder
	for _, ns := range dns.Nameservers {
		fmt.Fprintln(&b, "nameserver", ns)
	}
	host, err := hostResolvConf()
	if err != nil {
		return "", err
	}
	// What is not said is as the host has it.
	for line := range strings.Lines(string(host)) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word == "nameserver" && len(dns.Nameservers) == 0 || word == "options" && len(dns.Options) == 0 ||
			word == "search" && len(dns.Search) == 0 {
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	if len(dns.Search) > 0 {
		fmt.Fprintln(&b, "search", strings.Join(dns.Search, " "))
	}
	if len(dns.Options) > 0 {
		fmt.Fprintln(&b, "options", strings.Join(dns.Options, " "))
	}
	path := w.path("resolv.conf")
	return path, os.WriteFile(path, []byte(b.String()), 0o644)
}

// platforms returns those that clients are told: the configuration's, or else what found returns.
func (w *wiring) platforms(found func(context.Context) []op.Platform) (func(context.Context) []op.Platform, error) {
	if len(w.cfg.Worker.OCI.Platforms) == 0 {
		return found, nil
	}
	var list []op.Platform
	for _, s := range w.cfg.Worker.OCI.Platforms {
		p, err := platforms.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("worker.oci.platforms: %w", err)
		}
		list = append(list, platforms.Normalize(p))
	}
	return func(context.Context) []op.Platform { return list }, nil
}
