// Package sandbox decides how a sandbox looks: pure functions from an executor.Spec to an OCI runtime specification,
// which is the neutral form that package executor/libcontainer carries out.
//
// Every decision about namespaces, mounts, capabilities, the system call filter, devices, masked paths, limits and
// identity is made here and nowhere else, and the golden files in testdata show the result. Nothing here needs root and
// nothing changes the machine; the only input besides the arguments are the root's /etc/passwd and /etc/group, which
// ReadUsers reads without trusting them.
//
// Defaults are those of Docker (moby's oci.DefaultSpec), tightened where an advisory taught so: the inheritable and
// ambient capability sets are empty unless a process is to have them (CVE-2022-24769, CVE-2016-8867), and the masked paths
// are the union of all that were found to leak (CVE-2017-16539, CVE-2018-10892, GHSA-7ww5-4wqc-m92c).
package sandbox

import (
	"errors"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

// Host is what Describe has to know of the place where the sandbox will run. Paths are as the runtime sees them.
type Host struct {
	Root              string   // where the root will be
	Sources           []string // what to bind for each of Spec.Mounts; empty for a Tmpfs
	Hosts, ResolvConf string   // files with the Spec's contents, if it has any
	NetNS             string   // the network namespace to join; empty with NetworkHost
	PIDNS, IPCNS      string   // for Spec.PIDNamespace and Spec.IPCNamespace
	Shm               string   // what to bind at /dev/shm; empty for a file system of the sandbox's own
	AppArmor          bool     // the kernel has it
	CgroupParent      string   // absolute, in every hierarchy
	Init              string   // the program to run as Spec.Init
	Devices           []Device // for Spec.Devices, and every node of the host's if Spec.Privileged
	HardLimits        map[string]uint64
	Capabilities      uint64 // the runtime's bounding set, as in /proc/self/status; 0 means all
	// Controllers of cgroups are those that there are; nil means all that a sandbox can need.
	Controllers map[string]bool
	NoSwapLimit bool // the kernel can't limit a cgroup's use of swap
	CPUs        int  // one more than the highest number of a CPU
	User        Identity
}

// InitPath is where the minimal init of Spec.Init is in a sandbox.
const InitPath = "/dev/init"

// isID says whether s matches [a-z0-9-]{1,64}. It is no regular expression since compiling one, at the start of every
// process of a sandbox, took a millisecond.
func isID(s string) bool {
	return len(s) >= 1 && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// cgroupPath is where a sandbox has its cgroup: below the parent that it asks for there is one with the runtime's name, as
// BuildKit has one that it calls "buildkit", which tells what is the runtime's from what is not.
func cgroupPath(spec *executor.Spec, host *Host) string {
	if spec.CgroupPath == "" {
		return path.Join(host.CgroupParent, spec.ID)
	}
	return path.Join("/", spec.CgroupPath, path.Base(host.CgroupParent), spec.ID)
}

// Validate reports the first thing in spec that no sandbox can have. It is cheap, and what gets past it cannot make
// the runtime do anything but what the fields say: no string has a NUL byte, no path a way out of the root, no size
// is negative.
func Validate(spec *executor.Spec) error {
	if !isID(spec.ID) {
		return fmt.Errorf("sandbox id %q: want 1 to 64 of a-z, 0-9 and -", spec.ID)
	}
	for name, s := range map[string]string{"host name": spec.Hostname, "domain name": spec.Domain} {
		// 64 is the kernel's __NEW_UTS_LEN.
		if len(s) > 64 || strings.ContainsAny(s, "\x00\n/") {
			return fmt.Errorf("%s %q: longer than 64 bytes, or with a NUL, newline or slash", name, s)
		}
	}
	if spec.CgroupPath != "" && (strings.Contains(spec.CgroupPath, "\x00") || slices.Contains(strings.Split(spec.CgroupPath, "/"), "..")) {
		return fmt.Errorf("cgroup %q: want a path without \"..\"", spec.CgroupPath)
	}
	if spec.ShmSize < 0 {
		return fmt.Errorf("size of /dev/shm: %d is negative", spec.ShmSize)
	}
	for i := range spec.Mounts {
		if err := validateMount(&spec.Mounts[i]); err != nil {
			return err
		}
	}
	if err := validateLimits(&spec.Limits); err != nil {
		return err
	}
	if err := validateSysctls(spec); err != nil {
		return err
	}
	if err := validateNamespaces(spec); err != nil {
		return err
	}
	for i := range spec.DeviceRules {
		if err := validateRule(&spec.DeviceRules[i]); err != nil {
			return err
		}
	}
	if err := validatePaths(spec); err != nil {
		return err
	}
	if err := validateHooks(spec.Hooks); err != nil {
		return err
	}
	return ValidateProcess(&spec.Process)
}

// ValidateProcess is Validate for a process. That the name of the command is empty is an *executor.StartError, as if it had
// been looked for: there is no such file on any PATH.
func ValidateProcess(p *executor.Process) error {
	if len(p.Args) == 0 {
		return errors.New("process without a command")
	}
	if p.Args[0] == "" {
		return &executor.StartError{Code: 127, Err: exec.ErrNotFound}
	}
	for _, a := range p.Args {
		if strings.Contains(a, "\x00") {
			return fmt.Errorf("argument %q: contains a NUL byte", a)
		}
	}
	if p.Cwd != "" && (!path.IsAbs(p.Cwd) || strings.Contains(p.Cwd, "\x00")) {
		return fmt.Errorf("working directory %q: not an absolute path", p.Cwd)
	}
	for _, kv := range p.Env {
		// A bare name would mean the host's value elsewhere (CVE-2026-57231); here it is an error.
		if i := strings.IndexByte(kv, '='); i < 1 || strings.Contains(kv, "\x00") {
			return fmt.Errorf("environment variable %q: want NAME=value without a NUL byte", kv)
		}
	}
	return nil
}

// Describe returns the specification of the sandbox that spec asks for, on host. It calls Validate.
func Describe(spec *executor.Spec, host *Host) (*specs.Spec, error) {
	if err := Validate(spec); err != nil {
		return nil, err
	}
	if err := joinable(spec, host); err != nil {
		return nil, err
	}
	caps, err := capabilities(spec, host.Capabilities)
	if err != nil {
		return nil, err
	}
	process, err := DescribeProcess(&spec.Process, host.User, caps)
	if err != nil {
		return nil, err
	}
	process.NoNewPrivileges, process.OOMScoreAdj = spec.NoNewPrivileges, spec.OOMScoreAdj
	process.User.Umask = spec.Umask
	if process.ApparmorProfile, err = labels(spec, host); err != nil {
		return nil, err
	}
	if process.Rlimits, err = rlimits(spec.Ulimits, host.HardLimits); err != nil {
		return nil, err
	}
	if spec.Init {
		process.Args = append([]string{InitPath, "--"}, process.Args...)
	}
	mounts, propagation, err := mounts(spec, host)
	if err != nil {
		return nil, err
	}
	out := &specs.Spec{
		Version:    specs.Version,
		Root:       &specs.Root{Path: host.Root, Readonly: spec.ReadOnly},
		Hostname:   spec.Hostname,
		Domainname: spec.Domain,
		Process:    process,
		Mounts:     mounts,
		Linux: &specs.Linux{
			CgroupsPath:       cgroupPath(spec, host),
			Namespaces:        namespaces(spec, host),
			Sysctl:            spec.Sysctls,
			RootfsPropagation: propagation,
		},
	}
	if out.Linux.Resources, err = resources(spec, host); err != nil {
		return nil, err
	}
	out.Linux.Devices = devices(spec, host)
	if !spec.Privileged {
		out.Linux.MaskedPaths, out.Linux.ReadonlyPaths = maskedPaths(spec, host), readonlyPaths(spec)
		if out.Linux.Seccomp, err = filter(spec, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// DescribeProcess returns the specification of a process that runs as user with the capabilities caps.
func DescribeProcess(p *executor.Process, user Identity, caps []string) (*specs.Process, error) {
	if err := ValidateProcess(p); err != nil {
		return nil, err
	}
	cwd := p.Cwd
	if cwd == "" {
		cwd = "/"
	}
	out := &specs.Process{
		Terminal: p.Terminal,
		User:     specs.User{UID: user.UID, GID: user.GID, AdditionalGids: user.Groups},
		Args:     p.Args,
		Env:      environment(p.Env, user.Home),
		Cwd:      cwd,
		// An ordinary user's process must have no capability left after execve(2), unless that is what is asked for:
		// so nothing is inheritable or ambient, and the kernel clears the rest when the uid stops being 0.
		Capabilities: &specs.LinuxCapabilities{
			Bounding: caps, Permitted: caps, Effective: caps, Inheritable: []string{}, Ambient: []string{},
		},
	}
	if p.Ambient {
		out.Capabilities.Inheritable, out.Capabilities.Ambient = caps, caps
	}
	if p.Terminal && p.Rows > 0 && p.Cols > 0 {
		out.ConsoleSize = &specs.Box{Height: uint(p.Rows), Width: uint(p.Cols)}
	}
	return out, nil
}

// ExecCapabilities returns the capabilities of a process of Exec in a sandbox that spec described. have is as in Host.
func ExecCapabilities(spec *executor.Spec, p *executor.Process, have uint64) ([]string, error) {
	if p.Privileged {
		return allCapabilities(have), nil
	}
	return capabilities(spec, have)
}

// DefaultFilter returns the system call filter of a sandbox whose Spec says nothing of capabilities or filters.
func DefaultFilter() (*specs.LinuxSeccomp, error) {
	spec := new(executor.Spec)
	caps, err := capabilities(spec, 0)
	if err != nil {
		return nil, err
	}
	return filter(spec, &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
}

// DefaultPath is the PATH of a process whose environment lacks one.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment adds PATH and HOME where env lacks them.
func environment(env []string, home string) []string {
	var havePath, haveHome bool
	for _, kv := range env {
		havePath = havePath || strings.HasPrefix(kv, "PATH=")
		haveHome = haveHome || strings.HasPrefix(kv, "HOME=") && len(kv) > len("HOME=")
	}
	out := append(make([]string, 0, len(env)+2), env...)
	if !havePath {
		out = append(out, "PATH="+DefaultPath)
	}
	if !haveHome {
		out = append(out, "HOME="+home)
	}
	return out
}
