package config

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// GRPC says where to listen, as in buildkitd.toml.
type GRPC struct {
	// Address is as Daemon.Addrs.
	Address []string `toml:"address"`
	// DebugAddress is where metrics, health and, for clients on this machine, profiles are served over HTTP: "host:port",
	// "tcp://host:port" or "unix:///path"; nowhere if empty. --debugaddr,
	// BUILDKITD_DEBUGADDR.
	DebugAddress string `toml:"debugAddress"`
	// UID and GID own the sockets; nil for those of the daemon. Daemon.Group goes before GID.
	UID *int `toml:"uid"`
	GID *int `toml:"gid"`
	// TLS is used for tcp:// and for TCP sockets from systemd. --tlscert, --tlskey, --tlscacert.
	TLS TLS `toml:"tls"`
}

// History bounds what is kept of past builds.
type History struct {
	// MaxAge is how long; 0 for 48 hours.
	MaxAge Duration `toml:"maxAge"`
	// MaxEntries is how many of them whatever their age; 0 for 50.
	MaxEntries int64 `toml:"maxEntries"`
}

// Frontends says which frontends builds may name.
type Frontends struct {
	Dockerfile Frontend `toml:"dockerfile.v0"`
	Gateway    Frontend `toml:"gateway.v0"`
}

// Frontend says whether builds may name a frontend.
type Frontend struct {
	Enabled *bool `toml:"enabled"`
	// AllowedRepositories are those that frontends as images may come from; all if empty.
	AllowedRepositories []string `toml:"allowedRepositories"`
}

// On says whether the frontend is enabled.
func (f Frontend) On() bool { return f.Enabled == nil || *f.Enabled }

// System is what is left of buildkitd.toml's table of that name.
type System struct {
	// MaxRegistryConcurrency is how many blobs are downloaded from one registry at once; 0 for the default.
	MaxRegistryConcurrency int `toml:"maxRegistryConcurrency"`
}

// Worker is buildkitd.toml's table of workers.
type Worker struct {
	OCI OCI `toml:"oci"`
}

// OCI is buildkitd.toml's worker that runs steps itself.
type OCI struct {
	// Labels are told to clients beside the worker's own.
	Labels map[string]string `toml:"labels"`
	// Platforms are told to clients instead of what the machine is found to run.
	Platforms      []string `toml:"platforms"`
	Snapshotter    string   `toml:"snapshotter"`
	CgroupParent   string   `toml:"defaultCgroupParent"`
	MaxParallelism int      `toml:"max-parallelism"`
	PoolSize       int      `toml:"cniPoolSize"`
	BridgeSubnet   string   `toml:"bridgeSubnet"`
	GCSpace
}

// merge moves what the file says in buildkitd.toml's words to where our own are. Our own go first.
func (d *Daemon) merge() {
	w := &d.Worker.OCI
	if d.MaxParallelism == 0 {
		d.MaxParallelism = w.MaxParallelism
	}
	if d.CgroupParent == "" {
		d.CgroupParent = w.CgroupParent
	}
	if d.CgroupParent != "" {
		d.CgroupParent = path.Join("/", d.CgroupParent)
	}
	if d.Network.Pool == 0 {
		d.Network.Pool = w.PoolSize
	}
	if d.Network.Subnet == "" {
		d.Network.Subnet = w.BridgeSubnet
	}
	if d.Snapshotter == "auto" && w.Snapshotter != "" {
		d.Snapshotter = snapshotterName(w.Snapshotter)
	}
	// Where there are devices, which build has them is for its client to say.
	if !d.CDI.Disabled && !slices.Contains(d.Entitlements, "device") {
		d.Entitlements = append(d.Entitlements, "device")
	}
	if d.Debug || d.Trace {
		d.Log.Level = "debug"
	}
	// Levels of logrus that slog has no name for.
	switch strings.ToLower(d.Log.Level) {
	case "warning":
		d.Log.Level = "warn"
	case "trace":
		d.Log.Level = "debug"
	case "fatal", "panic":
		d.Log.Level = "error"
	}
}

// checkCgroup says why a name cannot be that of a cgroup. As with runc, it is below the root with and without a slash at
// its beginning.
func checkCgroup(name string) error {
	switch {
	case slices.Contains(strings.Split(name, "/"), ".."):
		return fmt.Errorf("cgroup %q: it cannot lead upwards", name)
	case strings.ContainsAny(name, "\x00\n"):
		return fmt.Errorf("cgroup %q: it has a NUL or a newline", name)
	case strings.Contains(name, ".slice") && strings.Contains(name, ":"):
		return fmt.Errorf("cgroup %q: systemd is not asked for cgroups; give a path, such as %q", name, path.Clean(strings.ReplaceAll(name, ":", "/")))
	}
	return nil
}

// snapshotterName is our name of one of buildkitd's.
func snapshotterName(name string) string {
	if name == "overlayfs" {
		return "overlay"
	}
	return name
}

// readTLSDirs adds the files of tlsconfigdir to what they are for.
func (r *Registry) readTLSDirs() error {
	for _, dir := range r.TLSConfigDir {
		for _, pattern := range []string{"*.crt", "*.cert"} {
			files, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				return fmt.Errorf("tlsconfigdir: %w", err)
			}
			for _, f := range files {
				if base, ok := strings.CutSuffix(f, ".cert"); ok {
					r.KeyPair = append(r.KeyPair, KeyPair{Cert: f, Key: base + ".key"})
				} else {
					r.CA = append(r.CA, f)
				}
			}
		}
	}
	return nil
}
