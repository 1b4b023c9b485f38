package config

import (
	"fmt"
	"slices"
	"strings"
)

// A Use says what becomes of a key of the configuration file, or of a flag.
type Use string

// What becomes of keys and flags. Those that are neither are unknown, which is an error.
const (
	// Honoured ones do what they say.
	Honoured Use = "honoured"
	// Accepted ones are buildkitd's and change nothing here; whoever sets one is told so.
	Accepted Use = "accepted"
	// Refused ones ask for what this daemon does not do and a user must not believe it did.
	Refused Use = "refused"
)

// A Key is a line of the list of keys, which is what the reader of the file goes by.
type Key struct {
	// Name is the key as a file has it, with dots. A part "*" is any name, and a last part "**" is anything below.
	Name string
	Use  Use
	// Only are the values that say what is so anyway; any other one is refused. None are all.
	Only []string
	// Note is why the key changes nothing, or is refused.
	Note string
}

const (
	oneWorker   = "there is one worker, which is always there"
	noContainer = "boxbuild needs no containerd"
	ownNetwork  = "boxbuild makes the networks of sandboxes itself"
	noProfile   = "no AppArmor or SELinux profile is applied to steps"
	noProxy     = "the network of steps cannot be forced through a proxy"
)

// off are the values that switch something off.
var off = []string{"false", ""}

// Keys are all keys of the configuration file: our own, and then all of buildkitd.toml.
var Keys = slices.Concat(ownKeys, buildkitKeys, workerKeys("oci"), workerKeys("containerd"))

var ownKeys = []Key{
	{Name: "addr", Use: Honoured},
	{Name: "group", Use: Honoured},
	{Name: "allow-unauthenticated-tcp", Use: Honoured},
	{Name: "idle-timeout", Use: Honoured},
	{Name: "drain-timeout", Use: Honoured},
	{Name: "max-parallelism", Use: Honoured},
	{Name: "snapshotter", Use: Honoured},
	{Name: "shim", Use: Honoured},
	{Name: "memory-limit", Use: Honoured},
	{Name: "cgroup-parent", Use: Honoured},
	{Name: "log.file", Use: Honoured},
	{Name: "network.subnet", Use: Honoured},
	{Name: "network.pool", Use: Honoured},
	{Name: "bridge.name", Use: Honoured},
	{Name: "bridge.address", Use: Honoured},
	{Name: "bridge.pool.base", Use: Honoured},
	{Name: "bridge.pool.size", Use: Honoured},
	{Name: "bridge.mtu", Use: Honoured},
	{Name: "bridge.icc", Use: Honoured},
	{Name: "bridge.host-gateway", Use: Honoured},
	{Name: "gc.max-used", Use: Honoured},
	{Name: "gc.keep-for", Use: Honoured},
}

var buildkitKeys = []Key{
	{Name: "debug", Use: Honoured},
	{Name: "trace", Use: Honoured},
	{Name: "root", Use: Honoured},
	{Name: "insecure-entitlements", Use: Honoured},
	{Name: "proxyNetwork", Use: Accepted, Only: off, Note: noProxy},
	{Name: "provenanceEnvDir", Use: Accepted, Note: "nothing is added to provenance from files"},
	{Name: "log.format", Use: Honoured},
	{Name: "log.level", Use: Honoured},
	{Name: "dns.nameservers", Use: Honoured},
	{Name: "dns.options", Use: Honoured},
	{Name: "dns.searchDomains", Use: Honoured},
	{Name: "grpc.address", Use: Honoured},
	{Name: "grpc.debugAddress", Use: Honoured},
	{Name: "grpc.uid", Use: Honoured},
	{Name: "grpc.gid", Use: Honoured},
	{Name: "grpc.securityDescriptor", Use: Accepted, Note: "it is for Windows only"},
	{Name: "grpc.tls.cert", Use: Honoured},
	{Name: "grpc.tls.key", Use: Honoured},
	{Name: "grpc.tls.ca", Use: Honoured},
	{Name: "otel.socketPath", Use: Accepted, Note: "steps get no socket for their own traces"},
	{Name: "cdi.disabled", Use: Honoured},
	{Name: "cdi.specDirs", Use: Honoured},
	{Name: "cdi.autoAllowed", Use: Honoured},
	{Name: "history.maxAge", Use: Honoured},
	{Name: "history.maxEntries", Use: Honoured},
	{Name: "registry.*.mirrors", Use: Honoured},
	{Name: "registry.*.http", Use: Honoured},
	{Name: "registry.*.insecure", Use: Honoured},
	{Name: "registry.*.ca", Use: Honoured},
	{Name: "registry.*.keypair.key", Use: Honoured},
	{Name: "registry.*.keypair.cert", Use: Honoured},
	{Name: "registry.*.tlsconfigdir", Use: Honoured},
	{Name: "frontend.dockerfile.v0.enabled", Use: Honoured},
	{Name: "frontend.gateway.v0.enabled", Use: Honoured},
	{Name: "frontend.gateway.v0.allowedRepositories", Use: Honoured},
	{Name: "system.platformsCacheMaxAge", Use: Accepted, Note: "what the machine can run is looked at whenever it is asked for"},
	{Name: "system.maxRegistryConcurrency", Use: Honoured},
	{Name: "cache.gha.**", Use: Accepted, Note: "the build cache is not kept at GitHub"},
	{Name: "ghacache.**", Use: Accepted, Note: "the build cache is not kept at GitHub"},
}

// workerKeys are those of a worker's table. Those of the worker for containerd mean nothing here, and one that is on is
// refused; what would take protection from steps is refused for both.
func workerKeys(name string) []Key {
	honoured, note := Honoured, ""
	if name == "containerd" {
		honoured, note = Accepted, noContainer
	}
	keys := []Key{
		{Name: "labels.*", Use: honoured, Note: note},
		{Name: "platforms", Use: honoured, Note: note},
		{Name: "snapshotter", Use: honoured, Note: note},
		{Name: "gc", Use: honoured, Note: note},
		{Name: "gckeepstorage", Use: honoured, Note: note},
		{Name: "reservedSpace", Use: honoured, Note: note},
		{Name: "maxUsedSpace", Use: honoured, Note: note},
		{Name: "minFreeSpace", Use: honoured, Note: note},
		{Name: "gcpolicy.all", Use: honoured, Note: note},
		{Name: "gcpolicy.filters", Use: honoured, Note: note},
		{Name: "gcpolicy.keepDuration", Use: honoured, Note: note},
		{Name: "gcpolicy.keepBytes", Use: honoured, Note: note},
		{Name: "gcpolicy.reservedSpace", Use: honoured, Note: note},
		{Name: "gcpolicy.maxUsedSpace", Use: honoured, Note: note},
		{Name: "gcpolicy.minFreeSpace", Use: honoured, Note: note},
		{Name: "defaultCgroupParent", Use: honoured, Note: note},
		{Name: "max-parallelism", Use: honoured, Note: note},
		{Name: "cniPoolSize", Use: honoured, Note: note},
		{Name: "bridgeSubnet", Use: honoured, Note: note},
		{Name: "networkMode", Use: Accepted, Note: ownNetwork},
		{Name: "cniConfigPath", Use: Accepted, Note: ownNetwork},
		{Name: "cniBinaryPath", Use: Accepted, Note: ownNetwork},
		{Name: "bridgeName", Use: Accepted, Note: ownNetwork},
		{Name: "rootless", Use: Accepted, Note: "what the daemon may do it finds out itself"},
		{Name: "apparmor-profile", Use: Accepted, Only: off, Note: noProfile},
		{Name: "selinux", Use: Accepted, Only: off, Note: noProfile},
	}
	if name == "containerd" {
		keys = append(keys, []Key{
			{Name: "enabled", Use: Accepted, Only: off, Note: noContainer},
			{Name: "address", Use: Accepted, Note: noContainer},
			{Name: "namespace", Use: Accepted, Note: noContainer},
			{Name: "runtime.name", Use: Accepted, Note: noContainer},
			{Name: "runtime.path", Use: Accepted, Note: noContainer},
			{Name: "runtime.options.**", Use: Accepted, Note: noContainer},
		}...)
	} else {
		keys = append(keys, []Key{
			{Name: "enabled", Use: Accepted, Only: []string{"true"}, Note: oneWorker},
			{Name: "noProcessSandbox", Use: Accepted, Note: "steps always have a process namespace of their own"},
			{Name: "userRemapUnsupported", Use: Accepted, Only: off, Note: "users of steps are not remapped"},
			{Name: "binary", Use: Accepted, Note: "boxshim starts the steps"},
			{Name: "proxySnapshotterPath", Use: Accepted, Only: off, Note: "snapshots are made by overlayfs or as plain directories"},
			{Name: "stargzSnapshotter.**", Use: Accepted, Note: "snapshots are made by overlayfs or as plain directories"},
		}...)
	}
	for i := range keys {
		keys[i].Name = "worker." + name + "." + keys[i].Name
	}
	return keys
}

// parts are those of the name. The names of frontends have dots.
func (k Key) parts() []string {
	parts := strings.Split(k.Name, ".")
	if parts[0] == "frontend" {
		return []string{parts[0], parts[1] + "." + parts[2], parts[3]}
	}
	return parts
}

// matches says whether a key of a file, in its parts, is this one. A part may have dots in it, as in registry."docker.io".
func (k Key) matches(parts []string) bool {
	pattern := k.parts()
	for i, p := range pattern {
		switch {
		case p == "**":
			return len(parts) >= i
		case i >= len(parts), p != "*" && !strings.EqualFold(p, parts[i]):
			return false
		}
	}
	return len(parts) == len(pattern)
}

// A setting is a key that was set: in a file, or by a flag.
type setting struct {
	where string // "boxbuildd.toml:3: worker.oci.binary", "--oci-worker-binary"
	value string // of a string, a number or a boolean, else ""
}

// take says whether a setting is an error, or something that the user is told.
func take(s setting, use Use, only []string, note string) (warning string, err error) {
	if len(only) > 0 && slices.Contains(only, s.value) {
		return "", nil // it is so anyway
	}
	if use == Refused || len(only) > 0 {
		value := ""
		if s.value != "" {
			value = " " + s.value
		}
		return "", fmt.Errorf("%s%s is not supported: %s", s.where, value, note)
	}
	if use == Accepted {
		return fmt.Sprintf("%s has no effect: %s", s.where, note), nil
	}
	return "", nil
}
