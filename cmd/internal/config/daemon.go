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

// Daemon configures boxbuildd. Field tags are the keys of the configuration file; Keys lists them all.
type Daemon struct {
	// Root is the directory of all state. --root, BOXBUILD_ROOT; /var/lib/boxbuild for root, else
	// $XDG_DATA_HOME/boxbuild.
	Root string `toml:"root"`
	// Addr is where to listen, as in Addrs, for a file that names one address.
	Addr string `toml:"addr"`
	// Addrs are where to listen: unix:///path, tcp://host:port, fd:// for the sockets that systemd has made. --addr (more
	// than once); else, unless --root is given, BOXBUILD_ADDR, addr or grpc.address; else derived from Root: the default
	// root listens at /run/boxbuild/boxbuild.sock, any other one inside itself.
	Addrs []string `toml:"-"`
	// Group is the name or number of the group that may connect besides the daemon's user. --group; nobody else if
	// empty. Who may connect may become root on this machine.
	Group string `toml:"group"`
	// AnyoneOverTCP lets the daemon listen at an address of the network where clients need no certificate: whoever reaches
	// it may become root on this machine. --allow-unauthenticated-tcp.
	AnyoneOverTCP bool `toml:"allow-unauthenticated-tcp"`
	// GRPC says more of where to listen, as in buildkitd.toml.
	GRPC GRPC `toml:"grpc"`
	// IdleTimeout is after how long without a call, a build or a connection the daemon ends by itself. --idle-timeout;
	// 0 for never.
	IdleTimeout Duration `toml:"idle-timeout"`
	// DrainTimeout is how long builds that run have to finish when the daemon is told to stop; then they are cancelled.
	// 0 cancels them at once. --drain-timeout; ten minutes.
	DrainTimeout Duration `toml:"drain-timeout"`
	// MaxParallelism is how many steps run at once over all builds. --max-parallelism; 0 for as many as there are CPUs.
	MaxParallelism int `toml:"max-parallelism"`
	// Snapshotter is "auto", "overlay" or "native". --snapshotter; "auto".
	Snapshotter string `toml:"snapshotter"`
	// Shim is the path of boxshim; empty for the one beside this program, else on PATH. --shim.
	Shim string `toml:"shim"`
	// MemoryLimit is when the garbage collector works harder, in bytes; 0 for no limit. GOMEMLIMIT goes before it.
	MemoryLimit Bytes `toml:"memory-limit"`
	// Entitlements are what builds may be granted besides the usual: "network.host", "security.insecure", "device".
	// --allow-insecure-entitlement replaces the list of the file, as that replaces the default, "network.host". Load adds
	// "device" unless CDI is disabled. A build has what it asks for besides.
	Entitlements []string `toml:"insecure-entitlements"`
	// CgroupParent is the cgroup below which the daemon makes its own, which may hold those of others; empty for the root of
	// all. Load makes it absolute.
	CgroupParent string `toml:"cgroup-parent"`
	// CDI says which devices builds and containers can name.
	CDI CDI `toml:"cdi"`
	// Log says what is logged where.
	Log Log `toml:"log"`
	// DNS is what sandboxes ask for names instead of the machine's own resolvers.
	DNS DNS `toml:"dns"`
	// Network is the network of sandboxes.
	Network Network `toml:"network"`
	// Bridge is the network of containers.
	Bridge Bridge `toml:"bridge"`
	// GC bounds the store.
	GC GC `toml:"gc"`
	// History bounds what is kept of past builds.
	History History `toml:"history"`
	// Registries says how to speak with registries, by host: [registry."docker.io"].
	Registries map[string]Registry `toml:"registry"`
	// Frontends says which frontends builds may name.
	Frontends Frontends `toml:"frontend"`
	// System is what is left of buildkitd.toml's table of that name.
	System System `toml:"system"`
	// Worker is buildkitd.toml's table of workers. Load moves what has a key of its own here to that.
	Worker Worker `toml:"worker"`
	// Debug and Trace are other words for log.level = "debug".
	Debug bool `toml:"debug"`
	Trace bool `toml:"trace"`

	// Warnings are settings that have no effect here; Load sets them.
	Warnings []string `toml:"-"`

	rootFlag  string
	addrFlags []string
	file      string
	env       Env
}

// CDI configures the devices that RUN --device, run --device and run --gpus can name, as in buildkitd.toml.
type CDI struct {
	// Disabled leaves builds and containers without any. --cdi-disabled.
	Disabled bool `toml:"disabled"`
	// SpecDirs are the directories with descriptions of devices. --cdi-spec-dir; /etc/cdi and /var/run/cdi if empty, and
	// none if it is "" alone, as with dockerd.
	SpecDirs []string `toml:"specDirs"`
	// AutoAllowed are devices ("vendor.com/class=name") and kinds of them ("vendor.com/class") that builds may have without
	// an entitlement.
	AutoAllowed []string `toml:"autoAllowed"`
}

// Log configures what is logged.
type Log struct {
	// Level is debug, info, warn or error. --log-level, or debug with --debug; BUILDKITD_LOG_LEVEL; "info".
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
	// Subnet is the IPv4 network that the bridge takes a free /20 of, "10.88.0.0/16"; empty for one that is usual.
	Subnet string `toml:"subnet"`
	// Pool is how many network namespaces are kept ready; 0 for the default.
	Pool int `toml:"pool"`
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
	// KeyPair are files of client certificates and their keys. One is used.
	KeyPair []KeyPair `toml:"keypair"`
	// TLSConfigDir are directories of such files by their ending, as docker has them: *.crt for CA, *.cert and *.key.
	TLSConfigDir []string `toml:"tlsconfigdir"`
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
		DrainTimeout: Duration(10 * time.Minute),
	}
	d.addFlags(fs)
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
	if err := d.setFlags(fs); err != nil {
		return err
	}
	d.merge()
	for name, r := range d.Registries {
		if err := r.readTLSDirs(); err != nil {
			return fmt.Errorf("registry %q: %w", name, err)
		}
		d.Registries[name] = r
	}
	if err := d.place(); err != nil {
		return err
	}
	return d.Validate()
}

// place settles root and addresses. What the file says counts less than environment and flags: an address there more than one
// that is derived from a root, unless that was given by --root. A client with the same --root comes to the same address.
func (d *Daemon) place() error {
	first := ""
	if len(d.addrFlags) > 0 {
		first = d.addrFlags[0]
	}
	root, addr, given, err := d.env.locate(d.rootFlag, first)
	if err != nil {
		return err
	}
	if d.Root != "" && d.rootFlag == "" && d.env.Getenv("BOXBUILD_ROOT") == "" {
		root = filepath.Clean(d.Root)
		if !given {
			addr = d.env.addressOf(root)
		}
	}
	inFile := d.GRPC.Address
	if d.Addr != "" {
		inFile = append([]string{d.Addr}, inFile...)
	}
	switch {
	case len(d.addrFlags) > 0:
		d.Addrs = d.addrFlags
	case len(inFile) > 0 && !given && d.rootFlag == "":
		d.Addrs = inFile
	default:
		d.Addrs = []string{addr}
	}
	d.Root = root
	return nil
}

// Validate says everything that is wrong with the configuration.
func (d *Daemon) Validate() error {
	errs := []error{checkRoot(d.Root)}
	errs = append(errs, d.validateAddrs(), d.Worker.OCI.validate())
	if d.IdleTimeout < 0 {
		errs = append(errs, errors.New("idle-timeout is negative"))
	}
	if d.DrainTimeout < 0 {
		errs = append(errs, errors.New("drain-timeout is negative"))
	}
	if d.History.MaxAge < 0 || d.History.MaxEntries < 0 {
		errs = append(errs, errors.New("history: maxAge or maxEntries is negative"))
	}
	if d.System.MaxRegistryConcurrency < 0 {
		errs = append(errs, errors.New("system.maxRegistryConcurrency is negative"))
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
		d.validateNetwork(),
		d.Bridge.validate())
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

// validateAddrs checks where to listen. An address that others reach needs TLS with client certificates: whoever can call
// the daemon can become root.
func (d *Daemon) validateAddrs() error {
	var errs []error
	seen := map[Address]bool{}
	for _, s := range d.Addrs {
		a, err := ParseAddress(s)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case seen[a]:
			errs = append(errs, fmt.Errorf("address %q is given twice", s))
		case a.Network == "tcp" && !a.Loopback():
			errs = append(errs, d.CheckOpen(s))
		}
		seen[a] = true
	}
	t := d.GRPC.TLS
	if t.Enabled() && (t.Cert == "" || t.Key == "") {
		errs = append(errs, errors.New("TLS needs a certificate and its key: tlscert and tlskey, beside tlscacert for those of clients"))
	}
	if d.GRPC.DebugAddress != "" {
		if _, err := d.GRPC.Debug(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// CheckOpen says why the daemon does not listen at an address that other machines reach; nil if it may.
func (d *Daemon) CheckOpen(addr string) error {
	why := ""
	switch t := d.GRPC.TLS; {
	case d.AnyoneOverTCP:
		return nil
	case t.Cert == "" || t.Key == "":
		why = "without TLS"
	case t.CA == "":
		why = "without client certificates"
	default:
		return nil
	}
	return fmt.Errorf("%s can be reached by other machines, and %s anyone who does becomes root on this one: "+
		"give --tlscert, --tlskey and --tlscacert, or --allow-unauthenticated-tcp if that is meant", addr, why)
}

// Debug returns the address for metrics and profiles, which may be written without a scheme.
func (g *GRPC) Debug() (Address, error) {
	s := g.DebugAddress
	if !strings.Contains(s, "://") {
		s = "tcp://" + s
	}
	a, err := ParseAddress(s)
	if err == nil && a.Network == "fd" {
		err = errors.New("it cannot be fd://")
	}
	if err != nil {
		return Address{}, fmt.Errorf("grpc.debugAddress: %w", err)
	}
	return a, nil
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
		} else if p.Bits() > 20 {
			errs = append(errs, fmt.Errorf("network.subnet: %s is too small: sandboxes need a /20", p))
		}
	}
	if d.Network.Pool < 0 {
		errs = append(errs, errors.New("network.pool is negative"))
	}
	return errors.Join(errs...)
}

// Idle returns IdleTimeout as the standard library has it.
func (d *Daemon) Idle() time.Duration { return d.IdleTimeout.std() }

// Drain returns DrainTimeout likewise.
func (d *Daemon) Drain() time.Duration { return d.DrainTimeout.std() }

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
