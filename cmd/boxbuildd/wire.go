package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/authn"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/executor/binfmt"
	"github.com/boxbuild/boxbuild/executor/cdi"
	"github.com/boxbuild/boxbuild/executor/netns"
	"github.com/boxbuild/boxbuild/executor/shim"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/proto/git"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/snapshot/native"
	"github.com/boxbuild/boxbuild/snapshot/overlay"
	"github.com/boxbuild/boxbuild/snapshot/store"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/cachedb"
	runner "github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/records"
	"github.com/boxbuild/boxbuild/worker/builder"
	"github.com/boxbuild/boxbuild/worker/container"
	"github.com/boxbuild/boxbuild/worker/eventlog"
	"github.com/boxbuild/boxbuild/worker/history"
	"github.com/boxbuild/boxbuild/worker/images"
	containernet "github.com/boxbuild/boxbuild/worker/network"
	"github.com/boxbuild/boxbuild/worker/telemetry"
	"github.com/boxbuild/boxbuild/worker/transfer"
	"github.com/boxbuild/boxbuild/worker/volume"
)

// How much of directories and snapshots is remembered in memory, in entries of about 200 bytes; what is older is read
// from the disk again.
const (
	contextEntries = 60_000
	hashEntries    = 40_000
)

// wiring builds the worker from the drivers up, and takes it down in the opposite order.
type wiring struct {
	// workers are what clients are told of the daemon.
	workers func(context.Context) []*apitypes.WorkerRecord
	cfg     *config.Daemon
	log     *slog.Logger
	id      string // eight hex digits: what this root's bridge, cgroup and so on are called

	snapshots   snapshot.Snapshotter
	snapshotter string
	cache       *cachedb.Cache
	meta        *bbolt.DB
	derived     *bbolt.DB
	blobs       *blob.Store
	images      *image.Store
	layers      *images.Layers
	leases      *lease.Manager
	client      *registry.Client
	network     *netns.Pool
	executor    *shim.Keeper
	contexts    *filesync.Cache
	received    *filesync.Store // files of clients that have another file system, or other rights
	git         *git.Client
	runner      *runner.Runner
	devices     *cdi.Devices
	history     *history.Store
	events      worker.Events
	counters    *telemetry.Engine // of what containers and images do
	volumes     *volume.Service
	networks    *containernet.Service
	containers  *container.Manager
	records     *records.Server // the history as BuildKit's clients see it

	closers []func() error
}

// newWorker chooses the drivers and builds the worker on them.
func newWorker(ctx context.Context, cfg *config.Daemon, log *slog.Logger) (_ *daemon, err error) {
	sum := sha256.Sum256([]byte(cfg.Root))
	w := &wiring{cfg: cfg, log: log, id: hex.EncodeToString(sum[:4])}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	for _, step := range []func(context.Context) error{w.store, w.registry, w.sandbox} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return w.worker(ctx)
}

func (w *wiring) path(name string) string { return filepath.Join(w.cfg.Root, name) }

func (w *wiring) onClose(f func() error) { w.closers = append(w.closers, f) }

func (w *wiring) close() error {
	var errs []error
	for _, f := range slices.Backward(w.closers) {
		errs = append(errs, f())
	}
	w.closers = nil
	return errors.Join(errs...)
}

// store opens all that is on the disk.
func (w *wiring) store(ctx context.Context) (err error) {
	if err := w.openMeta(); err != nil {
		return err
	}
	if err := w.openSnapshots(ctx); err != nil {
		return err
	}
	if w.blobs, err = blob.Open(w.cfg.Root); err != nil {
		return err
	}
	if err := w.checkBlobs(ctx); err != nil {
		return err
	}
	if w.images, err = image.Open(w.meta); err != nil {
		return err
	}
	if w.cache, err = cachedb.Open(w.path("cache.db")); err != nil {
		return err
	}
	w.onClose(w.cache.Close)
	if w.derived, err = openDerived(w.path("derived.db")); err != nil {
		return err
	}
	w.onClose(w.derived.Close)
	w.layers, err = images.NewLayers(images.Stores{
		Snapshots: w.snapshots, Blobs: w.blobs, Images: w.images, Cache: w.derived,
	})
	if err != nil {
		return err
	}
	w.onClose(func() error { w.layers.Close(); return nil })
	if err := w.openHistory(); err != nil {
		return err
	}
	w.leases = lease.New(append(w.layers.Sources(), builder.Records(w.cache), w.history.Leases(w.hasBlob), w.containerLeases())...)
	if w.received, err = filesync.NewStore(w.path("received"), 0); err != nil {
		return err
	}
	w.onClose(w.received.Close)
	if w.git, err = git.New(git.Options{Dir: w.path("git")}); err != nil {
		return err
	}
	w.contexts = filesync.NewCache(w.path("contexts"), contextEntries)
	w.onClose(w.contexts.Close)
	return nil
}

// openMeta opens the database of what users have named. It says which drafts of snapshots are containers', so it comes first.
func (w *wiring) openMeta() (err error) {
	if w.meta, err = bbolt.Open(w.path("meta.db"), 0o600, nil); err != nil {
		return fmt.Errorf("opening %s: %w", w.path("meta.db"), err)
	}
	w.onClose(w.meta.Close)
	return nil
}

// bootFile says in which boot of the machine the store was used last.
const bootFile = "boot"

// checkBlobs drops the blobs that a power cut has left damaged. Blobs are renamed into place without waiting for the disk,
// so after a reboot those of the last hours are read and compared with their names; none is served before that.
func (w *wiring) checkBlobs(ctx context.Context) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("asking which boot this is: %w", err)
	}
	last, err := os.Stat(w.path(bootFile))
	if err == nil {
		seen, err := os.ReadFile(w.path(bootFile))
		if err != nil {
			return err
		}
		if string(seen) == string(boot) {
			return nil
		}
		// The kernel writes out within a minute what was written before; an hour allows for clocks that were set.
		bad, err := w.blobs.Check(ctx, last.ModTime().Add(-time.Hour))
		if err != nil {
			return err
		}
		for _, d := range bad {
			w.log.Warn("a blob was damaged when the machine went down, and is dropped", "digest", d)
		}
	}
	return os.WriteFile(w.path(bootFile), boot, 0o600)
}

// openDerived opens the database of what can be computed again. It is not synced; one that is damaged is started anew.
func openDerived(path string) (*bbolt.DB, error) {
	opts := &bbolt.Options{NoSync: true, NoFreelistSync: true}
	db, err := bbolt.Open(path, 0o600, opts)
	if err != nil {
		if rerr := os.Remove(path); rerr != nil {
			return nil, fmt.Errorf("opening %s: %w", path, err)
		}
		db, err = bbolt.Open(path, 0o600, opts)
	}
	return db, err
}

// snapshotterFile says which snapshotter has made the snapshots of a root. What one has made means something else to the
// other: for overlay a directory is what is added to those below it, for native it is all.
const snapshotterFile = "snapshotter"

// chooseSnapshotter returns the snapshotter for the root: the one that is asked for, which must be the one that it has, or
// "auto" if there is none yet and any will do.
func (w *wiring) chooseSnapshotter() (string, error) {
	b, err := os.ReadFile(w.path(snapshotterFile))
	has := strings.TrimSpace(string(b))
	switch asked := w.cfg.Snapshotter; {
	case errors.Is(err, os.ErrNotExist):
		return asked, nil
	case err != nil:
		return "", err
	case asked != "auto" && asked != has:
		return "", fmt.Errorf("the snapshots in %s were made with --snapshotter %s: use that, or another --root", w.cfg.Root, has)
	default:
		return has, nil
	}
}

func (w *wiring) openSnapshots(ctx context.Context) (err error) {
	if w.snapshotter, err = w.chooseSnapshotter(); err != nil {
		return err
	}
	if err := w.openDriver(ctx); err != nil {
		return err
	}
	name := w.path(snapshotterFile)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	if err := os.WriteFile(name+".new", []byte(w.snapshotter+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// openDriver opens what w.snapshotter names, and decides where that is "auto".
func (w *wiring) openDriver(ctx context.Context) error {
	dir := w.path("snapshots")
	keep, err := container.Drafts(w.meta)
	if err != nil {
		return err
	}
	opts := store.Options{Log: w.log, Keep: keep}
	if w.snapshotter != "native" {
		s, err := overlay.Open(ctx, dir, opts)
		switch {
		case err == nil:
			w.snapshots, w.snapshotter = s, "overlay"
			w.onClose(s.Close)
			return nil
		case w.snapshotter != "auto" || !errors.Is(err, errors.ErrUnsupported):
			return err
		}
		w.log.Warn("overlayfs does not work here: layers are copied", "reason", err)
	}
	s, err := native.Open(ctx, dir, opts)
	if err != nil {
		return err
	}
	w.snapshots, w.snapshotter = s, "native"
	w.onClose(s.Close)
	return nil
}

// registry makes the registry client.
func (w *wiring) registry(context.Context) (err error) {
	hosts, err := registryHosts(w.cfg)
	if err != nil {
		return err
	}
	if w.client, err = registry.New(registry.Options{
		Hosts: hosts, UserAgent: "boxbuild/" + version, MaxConcurrency: w.cfg.System.MaxRegistryConcurrency,
	}); err != nil {
		return err
	}
	w.onClose(w.client.Close)
	return nil
}

// registryHosts reads the files that the configuration of registries names.
func registryHosts(cfg *config.Daemon) (map[string]registry.Host, error) {
	hosts := make(map[string]registry.Host, len(cfg.Registries))
	for name, r := range cfg.Registries {
		h := registry.Host{Mirrors: r.Mirrors, PlainHTTP: r.HTTP, Insecure: r.Insecure}
		for _, f := range r.CA {
			pem, err := os.ReadFile(f)
			if err != nil {
				return nil, fmt.Errorf("reading the certificates for registry %s: %w", name, err)
			}
			h.CA = append(append(h.CA, pem...), '\n')
		}
		for _, kp := range r.KeyPair {
			cert, err := os.ReadFile(kp.Cert)
			if err != nil {
				return nil, fmt.Errorf("reading the client certificate for registry %s: %w", name, err)
			}
			key, err := os.ReadFile(kp.Key)
			if err != nil {
				return nil, fmt.Errorf("reading the client key for registry %s: %w", name, err)
			}
			h.KeyPairs = append(h.KeyPairs, registry.KeyPair{Cert: cert, Key: key})
		}
		hosts[name] = h
	}
	return hosts, nil
}

// sandbox starts what processes run in.
func (w *wiring) sandbox(ctx context.Context) error {
	binary, err := w.shimBinary()
	if err != nil {
		return err
	}
	nopts := netns.Options{ID: w.id, Warm: w.cfg.Network.Pool}
	if w.cfg.Network.Subnet != "" {
		if nopts.Range, err = netip.ParsePrefix(w.cfg.Network.Subnet); err != nil {
			return fmt.Errorf("network.subnet: %w", err)
		}
	}
	if nopts.ResolvConf, err = w.resolvConf(); err != nil {
		return fmt.Errorf("configuring the resolvers of sandboxes: %w", err)
	}
	pool, err := netns.New(nopts)
	if err != nil {
		return err
	}
	w.network = pool
	w.onClose(pool.Close)
	w.executor, err = shim.Keep(ctx, shim.Options{
		Binary: binary, Dir: w.cfg.Root, CgroupParent: w.cgroupParent(), Network: pool, Log: os.Stderr,
	})
	if err != nil {
		return err
	}
	w.onClose(w.executor.Close)
	return nil
}

// shimBinary finds boxshim: as configured, beside this program, or on PATH.
func (w *wiring) shimBinary() (string, error) {
	if w.cfg.Shim != "" {
		return w.cfg.Shim, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "boxshim")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath("boxshim")
	if err != nil {
		return "", fmt.Errorf("looking for boxshim, which starts sandboxes: %w", err)
	}
	return filepath.Abs(path)
}

// hostResolvConf is /etc/resolv.conf for processes on the host's network or none. On a host without one theirs is empty,
// which means the same, but is there: what they write to it would be in the image else.
func hostResolvConf() ([]byte, error) {
	b, err := os.ReadFile("/etc/resolv.conf")
	if errors.Is(err, os.ErrNotExist) {
		return []byte{}, nil
	}
	return b, err
}

// worker puts the parts together.
func (w *wiring) worker(ctx context.Context) (*daemon, error) {
	host := platforms.Normalize(platforms.DefaultSpec())
	move := transfer.New(transfer.Deps{
		Client: w.client, Images: w.images, Blobs: w.blobs, Layers: w.layers, Leases: w.leases, Platform: host,
	})
	parallelism := w.cfg.MaxParallelism
	if parallelism == 0 {
		parallelism = max(16, 4*runtime.NumCPU())
	}
	devices := cdi.New(cdi.Options{Disabled: w.cfg.CDI.Disabled, Dirs: w.cfg.CDI.SpecDirs, AutoAllowed: w.cfg.CDI.AutoAllowed, Log: w.log})
	w.devices = devices
	foreign := binfmt.New(binfmt.Options{Dir: w.cfg.Root, Host: host})
	w.runner = runner.New(runner.Deps{
		Snapshots: w.snapshots, Executor: w.executor, Images: move, DiffIDs: w.layers.DiffIDs,
		Emulators: foreign,
		CacheDir:  w.path("cachemounts"), RecentDir: w.path("copies"), FetchDir: w.path("fetched"), SocketDir: w.path("sockets"),
		Git:        w.git,
		ResolvConf: w.network.ResolvConf, HostResolvConf: hostResolvConf,
		Hashes: treehash.NewCache(hashEntries), Parallelism: parallelism,
		Devices: devices,
	})
	fronts, err := w.frontends(host)
	if err != nil {
		return nil, err
	}
	b := builder.New(builder.Deps{
		Solver: solver.New(w.runner, w.cache, solver.Options{}), Runner: w.runner, Frontend: fronts.Dockerfile(nil),
		Images: move, Store: w.images, Snapshots: w.snapshots, Layers: w.layers, Leases: w.leases, Transfer: move,
		Platform: host, Entitlements: w.cfg.Entitlements, Devices: devices,
	})
	svc := images.New(images.Deps{
		Users:  func(id digest.Digest) []worker.ImageUser { return w.containers.Users(id) },
		Layers: w.layers, Leases: w.leases, Transfer: move, Platform: host, Mounts: cacheMounts{w.runner},
		Sources: sourceCaches(w.git, w.received),
		Reserve: images.NewReserve(w.path("reserve")), Describe: builder.Describe(w.cache),
	})
	if err := w.runtime(ctx, svc, foreign); err != nil {
		return nil, err
	}
	told, tel, err := w.operate(ctx, w.history.Wrap(b), svc)
	if err != nil {
		return nil, err
	}
	told = eventlog.Builder(told, svc, w.events)
	offered, err := w.platforms(foreign.Platforms)
	if err != nil {
		return nil, err
	}
	d := &daemon{
		Devices: devices,
		Builder: told, Gate: newGate(told), History: w.history, Images: w.counters.Images(eventlog.Images(svc, w.events)), Counters: w.counters,
		Platform: host, Platforms: offered, Telemetry: tel,
		OpenDirectory: func(path string) (filesync.Source, error) {
			return filesync.Dir(path, filesync.Options{Cache: w.contexts})
		},
		ReceiveDirectory: func(_ context.Context, s filesync.Stream) (filesync.Source, error) {
			return filesync.Remote(s, w.received, filesync.RemoteOptions{}), nil
		},
		Login: func(ctx context.Context, host string, auth authn.AuthConfig) (string, error) {
			return "", w.client.Ping(registry.WithKeychain(ctx, registry.StaticKeychain(host, auth)), host)
		},
		About: &boxbuildv1.InfoResponse{Snapshotter: worker.StorageDriver(w.snapshotter)},
		Busy:  func() bool { return w.containers.Running() > 0 },
		Close: w.close,
	}
	bk, err := w.buildkit(d, devices, fronts)
	if err != nil {
		return nil, err
	}
	d.Register = func(g grpc.ServiceRegistrar) {
		bk.Register(g)
		fronts.Register(g)
		w.records.Register(g)
	}
	return d, nil
}
