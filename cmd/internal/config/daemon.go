package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Daemon configures boxbuildd. Field tags are the keys of the configuration file.
type Daemon struct {
	// Root is the directory of all state. --root, BOXBUILD_ROOT; /var/lib/boxbuild for root, else
	// $XDG_DATA_HOME/boxbuild.
	Root string `toml:"root"`
	// Addr is where to listen, unix:///path. --addr, BOXBUILD_ADDR; else derived from Root: the default root listens at
	// /run/boxbuild/boxbuild.sock, any other one inside itself.
	Addr string `toml:"addr"`
	// Group is the name or number of the group that may connect besides the daemon's user. --group; nobody else if
	// empty. Who may connect may become root on this machine.
	Group string `toml:"group"`
	// IdleTimeout is after how long without a call, a build or a connection the daemon ends by itself. --idle-timeout;
	// 0 for never.
	IdleTimeout Duration `toml:"idle-timeout"`
	// MaxParallelism is how many steps run at once over all builds. --max-parallelism; 0 for as many as there are CPUs.
	MaxParallelism int `toml:"max-parallelism"`
	// Snapshotter is "auto", "overlay" or "native". --snapshotter; "auto".
	Snapshotter string `toml:"snapshotter"`
	// Shim is the path of boxshim; empty for the one beside this program, else on PATH. --shim.
	Shim string `toml:"shim"`
	// MemoryLimit is when the garbage collector works harder, in bytes; 0 for no limit. GOMEMLIMIT goes before it.
	MemoryLimit Bytes `toml:"memory-limit"`
	// Entitlements are what builds may be granted besides the usual: "network.host", "security.insecure", "device".
	// --allow-insecure-entitlement. The network of the host is granted by default.
	Entitlements []string `toml:"insecure-entitlements"`
	// CgroupParent is the cgroup below which sandboxes are; empty for one derived from the root.
	CgroupParent string `toml:"cgroup-parent"`
	// CDI says which devices builds can name.
	CDI CDI `toml:"cdi"`
	// Log says what is logged where.
	Log Log `toml:"log"`
	// DNS is what sandboxes ask for names instead of the machine's own resolvers.
	DNS DNS `toml:"dns"`
	// Network is the network of sandboxes.
	Network Network `toml:"network"`
	// GC bounds the store.
	GC GC `toml:"gc"`
	// Registries says how to speak with registries, by host: [registry."docker.io"].
	Registries map[string]Registry `toml:"registry"`

	rootFlag, addrFlag string
	file               string
	env                Env
}

// CDI configures the devices that RUN --device can name, as in buildkitd.toml.
type CDI struct {
	// Disabled leaves builds without any. --cdi-disabled.
	Disabled bool `toml:"disabled"`
	// SpecDirs are the directories with descriptions of devices. --cdi-spec-dir; /etc/cdi and /var/run/cdi if empty.
	SpecDirs []string `toml:"specDirs"`
	// AutoAllowed are devices ("vendor.com/class=name") and kinds of them ("vendor.com/class") that builds may have without
	// an entitlement.
	AutoAllowed []string `toml:"autoAllowed"`
}

// Log configures what is logged.
type Log struct {
	// Level is debug, info, warn or error. --log-level, or debug with --debug; "info".
	Level string `toml:"level"`
	// Format is text or json. --log-format; "text".
	Format string `toml:"format"`
	// File is where to log instead of standard error. --log-file.
	File string `toml:"file"`
}

// DNS configures name resolution in sandboxes.
type DNS struct {
	Nameservers []string `toml:"nameservers"`
	Options     []string `toml:"options"`
	Search      []string `toml:"searchDomains"`
}

// Network configures the network of sandboxes.
type Network struct {
	// Subnet is the IPv4 network of the bridge, "10.88.0.0/16"; empty for a free one.
	Subnet string `toml:"subnet"`
	// Pool is how many network namespaces are kept ready; 0 for the default.
	Pool int `toml:"pool"`
}

// GC configures when what is not used goes.
type GC struct {
	// MaxUsed is how many bytes the store may take; 0 for a share of the disk. "20GB" or a number.
	MaxUsed Bytes `toml:"max-used"`
	// KeepFor spares what was used within that time.
	KeepFor Duration `toml:"keep-for"`
}

// Registry says how to speak with one registry, as in buildkitd.toml.
type Registry struct {
	// Mirrors are asked first: "[http://|https://]host[:port][/path]".
	Mirrors []string `toml:"mirrors"`
	// HTTP speaks without TLS.
	HTTP bool `toml:"http"`
	// Insecure does not verify the certificate.
	Insecure bool `toml:"insecure"`
	// CA are files of certificates that are trusted besides the system's.
	CA []string `toml:"ca"`
	// KeyPair are files of client certificates and their keys.
	KeyPair []KeyPair `toml:"keypair"`
}

// KeyPair is a client certificate.
type KeyPair struct {
	Key  string `toml:"key"`
	Cert string `toml:"cert"`
}

// NewDaemon returns the defaults and adds the flags to fs. Call Load once they are parsed.
func NewDaemon(fs *pflag.FlagSet, env Env) *Daemon {
	d := &Daemon{
		env:          env,
		Snapshotter:  "auto",
		Entitlements: []string{"network.host"},
		Log:          Log{Level: "info", Format: "text"},
	}
	fs.StringVar(&d.file, "config", "", "Path of the configuration file (default "+d.defaultFile()+")")
	fs.StringVar(&d.rootFlag, "root", "", "Directory of all state")
	fs.StringVar(&d.addrFlag, "addr", "", `Address to listen at, such as "unix:///run/boxbuild/boxbuild.sock"`)
	fs.String("group", "", "Group that may connect besides the daemon's user")
	fs.Duration("idle-timeout", 0, "End after so long without a call; 0 for never")
	fs.Int("max-parallelism", 0, "How many steps run at once; 0 for as many as there are CPUs")
	fs.String("snapshotter", "auto", `"auto", "overlay" or "native"`)
	fs.String("shim", "", "Path of boxshim")
	fs.String("log-level", "info", `"debug", "info", "warn" or "error"`)
	fs.String("log-format", "text", `"text" or "json"`)
	fs.String("log-file", "", "Log to this file instead of standard error")
	fs.Bool("debug", false, "Log everything")
	fs.StringSlice("allow-insecure-entitlement", nil, `What builds may be granted: "network.host", "security.insecure", "device"`)
	fs.Bool("cdi-disabled", false, "Give builds no devices")
	fs.StringSlice("cdi-spec-dir", nil, "Directories with descriptions of devices (default /etc/cdi,/var/run/cdi)")
	return d
}

// defaultFile is the configuration file that is read if it is there.
func (d *Daemon) defaultFile() string {
	if d.env.UID == 0 {
		return "/etc/boxbuild/boxbuildd.toml"
	}
	dir := d.env.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(d.env.Home, ".config")
	}
	return filepath.Join(dir, "boxbuild", "boxbuildd.toml")
}

// Load lays file, environment and the flags of fs over the defaults, and validates.
func (d *Daemon) Load(fs *pflag.FlagSet) error {
	path, required := d.file, true
	if path == "" {
		path, required = d.defaultFile(), false
	}
	if err := d.readFile(path, required); err != nil {
		return err
	}
	d.setFlags(fs)
	if err := d.place(); err != nil {
		return err
	}
	return d.Validate()
}

// place settles root and address. What the file says counts less than environment and flags.
func (d *Daemon) place() error {
	fileRoot, fileAddr := d.Root, d.Addr
	root, addr, given, err := d.env.locate(d.rootFlag, d.addrFlag)
	if err != nil {
		return err
	}
	if fileRoot != "" && d.rootFlag == "" && d.env.Getenv("BOXBUILD_ROOT") == "" {
		root = filepath.Clean(fileRoot)
		if !given {
			addr = d.env.addressOf(root)
		}
	}
	if fileAddr != "" && !given && d.rootFlag == "" {
		addr = fileAddr
	}
	d.Root, d.Addr = root, addr
	return nil
}

// setFlags lays the flags that were given over d.
func (d *Daemon) setFlags(fs *pflag.FlagSet) {
	set := map[string]func(string){
		"group":           func(v string) { d.Group = v },
		"snapshotter":     func(v string) { d.Snapshotter = v },
		"shim":            func(v string) { d.Shim = v },
		"log-level":       func(v string) { d.Log.Level = v },
		"log-format":      func(v string) { d.Log.Format = v },
		"log-file":        func(v string) { d.Log.File = v },
		"debug":           func(string) { d.Log.Level = "debug" },
		"idle-timeout":    func(string) { t, _ := fs.GetDuration("idle-timeout"); d.IdleTimeout = Duration(t) },
		"max-parallelism": func(string) { d.MaxParallelism, _ = fs.GetInt("max-parallelism") },
		"cdi-disabled":    func(string) { d.CDI.Disabled, _ = fs.GetBool("cdi-disabled") },
		"cdi-spec-dir":    func(string) { d.CDI.SpecDirs, _ = fs.GetStringSlice("cdi-spec-dir") },
		"allow-insecure-entitlement": func(string) {
			more, _ := fs.GetStringSlice("allow-insecure-entitlement")
			d.Entitlements = append(d.Entitlements, more...)
		},
	}
	fs.Visit(func(f *pflag.Flag) {
		if apply := set[f.Name]; apply != nil {
			apply(f.Value.String())
		}
	})
}

// Validate says everything that is wrong with the configuration.
func (d *Daemon) Validate() error {
	errs := []error{checkRoot(d.Root)}
	_, err := SocketPath(d.Addr)
	errs = append(errs, err)
	if d.IdleTimeout < 0 {
		errs = append(errs, errors.New("idle-timeout is negative"))
	}
	if d.MaxParallelism < 0 {
		errs = append(errs, errors.New("max-parallelism is negative"))
	}
	if d.MemoryLimit < 0 {
		errs = append(errs, errors.New("memory-limit is negative"))
	}
	errs = append(errs,
		oneOf("snapshotter", d.Snapshotter, "auto", "overlay", "native"),
		oneOf("log.format", d.Log.Format, "text", "json"),
		d.validateNetwork())
	for _, e := range d.Entitlements {
		errs = append(errs, oneOf("insecure-entitlements", e, "network.host", "security.insecure", "device"))
	}
	if _, err := d.Log.SlogLevel(); err != nil {
		errs = append(errs, err)
	}
	for name, r := range d.Registries {
		if name == "" || strings.ContainsAny(name, "/ ") {
			errs = append(errs, fmt.Errorf("registry %q: the name is not host[:port]", name))
		}
		for _, k := range r.KeyPair {
			if k.Key == "" || k.Cert == "" {
				errs = append(errs, fmt.Errorf("registry %q: a keypair has a key and a cert", name))
			}
		}
	}
	return errors.Join(errs...)
}

func (d *Daemon) validateNetwork() error {
	var errs []error
	for _, ns := range d.DNS.Nameservers {
		if _, err := netip.ParseAddr(ns); err != nil {
			errs = append(errs, fmt.Errorf("dns.nameservers: %q is not an address", ns))
		}
	}
	if d.Network.Subnet != "" {
		if p, err := netip.ParsePrefix(d.Network.Subnet); err != nil || !p.Addr().Is4() {
			errs = append(errs, fmt.Errorf("network.subnet: %q is not an IPv4 network", d.Network.Subnet))
		}
	}
	if d.Network.Pool < 0 {
		errs = append(errs, errors.New("network.pool is negative"))
	}
	return errors.Join(errs...)
}

// Idle returns IdleTimeout as the standard library has it.
func (d *Daemon) Idle() time.Duration { return time.Duration(d.IdleTimeout) }

// SlogLevel returns the level as slog has it.
func (l *Log) SlogLevel() (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return level, fmt.Errorf("log.level: %q is none of debug, info, warn, error", l.Level)
	}
	return level, nil
}

func oneOf(key, got string, want ...string) error {
	for _, w := range want {
		if got == w {
			return nil
		}
	}
	return fmt.Errorf("%s: %q is none of %s", key, got, strings.Join(want, ", "))
}
