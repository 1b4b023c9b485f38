package config

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// A flagKind is how the value of a flag is written.
type flagKind int

const (
	text flagKind = iota
	onOff
	number
	duration
	list  // given more than once, or with commas
	array // given more than once
)

// A Flag is a line of the list of flags, which is what the command line goes by.
type Flag struct {
	Name string
	kind flagKind
	Use  Use
	// Only are the values that say what is so anyway; any other one is refused. None are all.
	Only []string
	// Note is the usage of one that is honoured, and of any other why it changes nothing or is refused.
	Note  string
	value any // the default to show
	// env is the variable that stands for one that is not given, as with buildkitd; one that is empty is none.
	env string
	// set takes the value of one that was given; nil for those that are bound to a variable.
	set func(d *Daemon, v pflag.Value) error
}

func setText(to func(*Daemon) *string) func(*Daemon, pflag.Value) error {
	return func(d *Daemon, v pflag.Value) error { *to(d) = v.String(); return nil }
}

func setBool(to func(*Daemon) *bool) func(*Daemon, pflag.Value) error {
	return func(d *Daemon, v pflag.Value) error { *to(d) = v.String() == "true"; return nil }
}

func setInt(to func(*Daemon) *int) func(*Daemon, pflag.Value) error {
	return func(d *Daemon, v pflag.Value) error { _, err := fmt.Sscan(v.String(), to(d)); return err }
}

func setDuration(to func(*Daemon) *Duration) func(*Daemon, pflag.Value) error {
	return func(d *Daemon, v pflag.Value) error { return to(d).UnmarshalText([]byte(v.String())) }
}

func setList(to func(*Daemon) *[]string) func(*Daemon, pflag.Value) error {
	return func(d *Daemon, v pflag.Value) error {
		*to(d) = v.(pflag.SliceValue).GetSlice() //nolint:forcetypeassert // the table says that it is a list
		return nil
	}
}

// Flags are all flags of the daemon, in the order of the help: our own with those of buildkitd that do what they say,
// then those of buildkitd that are taken for its start scripts only.
var Flags = []Flag{
	{Name: "config", Use: Honoured, Note: "Path of the configuration file"},
	{Name: "root", Use: Honoured, Note: `Directory of all state (default "/var/lib/boxbuild")`},
	{Name: "addr", kind: array, Use: Honoured, Note: `Address to listen at, such as "unix:///run/boxbuild/boxbuild.sock", "tcp://10.0.0.1:1234", "fd://"; can be given more than once (default "unix:///run/boxbuild/boxbuild.sock", with another root boxbuild.sock in that)`},
	{Name: "group", Use: Honoured, Note: "Group that may connect besides the daemon's user", set: setText(func(d *Daemon) *string { return &d.Group })},
	{Name: "tlscert", Use: Honoured, Note: "Certificate of the daemon, for tcp://", set: setText(func(d *Daemon) *string { return &d.GRPC.TLS.Cert })},
	{Name: "tlskey", Use: Honoured, Note: "Key of that certificate", set: setText(func(d *Daemon) *string { return &d.GRPC.TLS.Key })},
	{Name: "tlscacert", Use: Honoured, Note: "Certificate of the authority that signs those of clients", set: setText(func(d *Daemon) *string { return &d.GRPC.TLS.CA })},
	{Name: "allow-unauthenticated-tcp", kind: onOff, Use: Honoured, Note: "Let anyone who reaches the tcp:// address become root on this machine", set: setBool(func(d *Daemon) *bool { return &d.AnyoneOverTCP })},
	{Name: "debugaddr", Use: Honoured, env: "BUILDKITD_DEBUGADDR", Note: `Serve metrics, health and, to this machine, profiles there, such as "127.0.0.1:6060" (BUILDKITD_DEBUGADDR)`, set: setText(func(d *Daemon) *string { return &d.GRPC.DebugAddress })},
	{Name: "idle-timeout", kind: duration, Use: Honoured, Note: "End after so long without a call; 0 for never (default 0; boxbuild starts it with 5m)", set: setDuration(func(d *Daemon) *Duration { return &d.IdleTimeout })},
	{Name: "drain-timeout", kind: duration, Use: Honoured, value: "10m", Note: "How long builds may go on after SIGTERM; 0 cancels them at once", set: setDuration(func(d *Daemon) *Duration { return &d.DrainTimeout })},
	{Name: "max-parallelism", kind: number, Use: Honoured, Note: "How many steps run at once; 0 for as many as there are CPUs", set: setInt(func(d *Daemon) *int { return &d.MaxParallelism })},
	{Name: "snapshotter", Use: Honoured, value: "auto", Note: `"auto", "overlay" or "native"`, set: setText(func(d *Daemon) *string { return &d.Snapshotter })},
	{Name: "shim", Use: Honoured, Note: "Path of boxshim", set: setText(func(d *Daemon) *string { return &d.Shim })},
	{Name: "log-level", Use: Honoured, env: "BUILDKITD_LOG_LEVEL", value: "info", Note: `"debug", "info", "warn" or "error" (BUILDKITD_LOG_LEVEL)`, set: setText(func(d *Daemon) *string { return &d.Log.Level })},
	{Name: "log-format", Use: Honoured, value: "text", Note: `"text" or "json"`, set: setText(func(d *Daemon) *string { return &d.Log.Format })},
	{Name: "log-file", Use: Honoured, Note: "Log to this file instead of standard error", set: setText(func(d *Daemon) *string { return &d.Log.File })},
	{Name: "debug", kind: onOff, Use: Honoured, Note: "Log everything", set: setBool(func(d *Daemon) *bool { return &d.Debug })},
	{Name: "trace", kind: onOff, Use: Honoured, Note: "Log everything", set: setBool(func(d *Daemon) *bool { return &d.Trace })},
	{Name: "allow-insecure-entitlement", kind: list, Use: Honoured, Note: `What builds may be granted besides devices, instead of what the file says: "network.host", "security.insecure" (default network.host)`, set: setList(func(d *Daemon) *[]string { return &d.Entitlements })},
	{Name: "cdi-disabled", kind: onOff, Use: Honoured, Note: "Give builds and containers no devices", set: setBool(func(d *Daemon) *bool { return &d.CDI.Disabled })},
	{Name: "cdi-spec-dir", kind: list, Use: Honoured, Note: "Directories with descriptions of devices (default /etc/cdi,/var/run/cdi)", set: setList(func(d *Daemon) *[]string { return &d.CDI.SpecDirs })},
	{Name: "oci-max-parallelism", kind: number, Use: Honoured, Note: "As --max-parallelism", set: setInt(func(d *Daemon) *int { return &d.MaxParallelism })},
	{Name: "oci-worker-labels", kind: list, Use: Honoured, Note: "Labels of the worker, name=value", set: setLabels},
	{Name: "oci-worker-platform", kind: list, Use: Honoured, Note: "Platforms that clients are told instead of what is found", set: setList(func(d *Daemon) *[]string { return &d.Worker.OCI.Platforms })},
	{Name: "oci-worker-snapshotter", Use: Honoured, Note: "As --snapshotter", set: setSnapshotter},
	{Name: "oci-worker-gc", kind: onOff, Use: Honoured, value: "true", Note: "Remove what the build cache has too much of", set: setGC},
	{Name: "oci-worker-gc-keepstorage", Use: Honoured, Note: "What of the disk the build cache keeps, Reserved[,Free[,Maximum]] in MB", set: func(d *Daemon, v pflag.Value) error {
		return d.Worker.OCI.setKeepStorage(v.String())
	}},
	{Name: "oci-cni-pool-size", kind: number, Use: Honoured, Note: "How many network namespaces are kept ready", set: setInt(func(d *Daemon) *int { return &d.Network.Pool })},

	{Name: "oci-worker", Use: Accepted, Only: []string{"true", "auto"}, Note: oneWorker},
	{Name: "oci-worker-net", Use: Accepted, Note: ownNetwork},
	{Name: "oci-cni-config-path", Use: Accepted, Note: ownNetwork},
	{Name: "oci-cni-worker-path", Use: Accepted, Note: ownNetwork},
	{Name: "oci-cni-binary-dir", Use: Accepted, Note: ownNetwork},
	{Name: "oci-worker-binary", Use: Accepted, Note: "boxshim starts the steps"},
	{Name: "oci-worker-rootless", kind: onOff, Use: Accepted, Note: "what the daemon may do it finds out itself"},
	{Name: "rootless", kind: onOff, Use: Accepted, Note: "what the daemon may do it finds out itself"},
	{Name: "oci-worker-no-process-sandbox", kind: onOff, Use: Accepted, Note: "steps always have a process namespace of their own"},
	{Name: "oci-worker-proxy-snapshotter-path", Use: Accepted, Only: off, Note: "snapshots are made by overlayfs or as plain directories"},
	{Name: "oci-worker-apparmor-profile", Use: Accepted, Only: off, Note: noProfile},
	{Name: "oci-worker-selinux", kind: onOff, Use: Accepted, Only: off, Note: noProfile},
	{Name: "proxy-network", kind: onOff, Use: Accepted, Only: off, Note: noProxy},
	{Name: "otel-socket-path", Use: Accepted, Note: "steps get no socket for their own traces"},
	{Name: "save-cache-debug", kind: onOff, Use: Accepted, Note: "what a key is made of is always kept"},
	{Name: "containerd-worker", Use: Accepted, Only: []string{"false", "auto"}, Note: noContainer},
	{Name: "containerd-worker-addr", Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-labels", kind: list, Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-platform", kind: list, Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-namespace", Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-runtime", Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-rootless", kind: onOff, Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-net", Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-snapshotter", Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-apparmor-profile", Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-selinux", kind: onOff, Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-gc", kind: onOff, Use: Accepted, Note: noContainer},
	{Name: "containerd-worker-gc-keepstorage", Use: Accepted, Note: noContainer},
	{Name: "containerd-cni-config-path", Use: Accepted, Note: noContainer},
	{Name: "containerd-cni-binary-dir", Use: Accepted, Note: noContainer},
	{Name: "containerd-cni-pool-size", kind: number, Use: Accepted, Note: noContainer},
	{Name: "containerd-max-parallelism", kind: number, Use: Accepted, Note: noContainer},
}

func setLabels(d *Daemon, v pflag.Value) error {
	if d.Worker.OCI.Labels == nil {
		d.Worker.OCI.Labels = map[string]string{}
	}
	for _, l := range v.(pflag.SliceValue).GetSlice() { //nolint:forcetypeassert // it is a list
		name, value, ok := strings.Cut(l, "=")
		if !ok || name == "" {
			return fmt.Errorf("%q is not name=value", l)
		}
		d.Worker.OCI.Labels[name] = value
	}
	return nil
}

func setSnapshotter(d *Daemon, v pflag.Value) error {
	d.Snapshotter = snapshotterName(v.String())
	return nil
}

func setGC(d *Daemon, v pflag.Value) error {
	on := v.String() == "true"
	d.Worker.OCI.GC = &on
	return nil
}

// addFlags adds the flags to fs. Those that have no effect are hidden: Usage lists them apart.
func (d *Daemon) addFlags(fs *pflag.FlagSet) {
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "debug-addr" {
			name = "debugaddr"
		}
		return pflag.NormalizedName(name)
	})
	for _, f := range Flags {
		def, _ := f.value.(string)
		switch {
		case f.Name == "config":
			fs.StringVar(&d.file, f.Name, "", f.Note+" (default "+d.defaultFile()+")")
		case f.Name == "root":
			fs.StringVar(&d.rootFlag, f.Name, "", f.Note)
		case f.Name == "addr":
			fs.StringArrayVar(&d.addrFlags, f.Name, nil, f.Note)
		case f.kind == onOff:
			fs.Bool(f.Name, def == "true", f.Note)
		case f.kind == number:
			fs.Int(f.Name, 0, f.Note)
		case f.kind == duration:
			var t Duration
			_ = t.UnmarshalText([]byte(def)) // "" is 0
			fs.Duration(f.Name, t.std(), f.Note)
		case f.kind == list:
			fs.StringSlice(f.Name, nil, f.Note)
		default:
			fs.String(f.Name, def, f.Note)
		}
		if f.Use != Honoured {
			fs.Lookup(f.Name).Hidden = true
		}
	}
}

// setFlags lays the flags that were given over d, and the variables that stand for flags that were not.
func (d *Daemon) setFlags(fs *pflag.FlagSet) error {
	for _, f := range Flags {
		given := fs.Lookup(f.Name)
		if v := d.env.Getenv(f.env); v != "" && !given.Changed {
			if err := fs.Set(f.Name, v); err != nil {
				return fmt.Errorf("%s: %w", f.env, err)
			}
		}
		if !given.Changed {
			continue
		}
		warning, err := take(setting{where: "--" + f.Name, value: given.Value.String()}, f.Use, f.Only, f.Note)
		if err != nil {
			return err
		}
		if warning != "" {
			d.Warnings = append(d.Warnings, warning)
		}
		if f.set == nil {
			continue
		}
		if err := f.set(d, given.Value); err != nil {
			return fmt.Errorf("--%s: %w", f.Name, err)
		}
	}
	return nil
}

// FlagUsages is the part of the help about flags.
func FlagUsages(fs *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString("Options:\n" + fs.FlagUsagesWrapped(120))
	b.WriteString("\nOptions of buildkitd that have no effect, so that its start scripts work:\n")
	for _, f := range Flags {
		if f.Use != Honoured {
			only := ""
			if len(f.Only) > 0 {
				only = " (anything but " + strings.Trim(strings.Join(f.Only, ", "), ", ") + ": an error)"
			}
			fmt.Fprintf(&b, "      --%-36s %s%s\n", f.Name, f.Note, only)
		}
	}
	return b.String()
}
