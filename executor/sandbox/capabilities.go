package sandbox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
)

// DefaultCapabilities are Docker's.
func DefaultCapabilities() []string {
	return []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
		"CAP_SYS_CHROOT",
	}
}

// knownCapabilities are those of Linux 6.x, in the kernel's order, without CAP_. The runtime leaves out, for the sets
// that it applies, what the running kernel does not know.
var knownCapabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// allCapabilities returns those whose bit is set in have, or all if that is 0.
func allCapabilities(have uint64) []string {
	out := make([]string, 0, len(knownCapabilities))
	for i, c := range knownCapabilities {
		if have == 0 || have&(1<<i) != 0 {
			out = append(out, "CAP_"+c)
		}
	}
	return out
}

// capabilities returns the set that CapAdd and CapDrop make of the default one. As in Docker, ALL stands for
// every capability, and what is named wins over ALL: adding ALL and dropping X leaves all but X, dropping ALL and
// adding X leaves X. What is both added and dropped by its name is added. ALL is no more than what the runtime has itself,
// as have says; what is named and not among that, it will fail to give.
func capabilities(spec *executor.Spec, have uint64) ([]string, error) {
	if spec.Privileged {
		return allCapabilities(have), nil
	}
	add, addAll, err := normalize(spec.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := normalize(spec.CapDrop)
	if err != nil {
		return nil, err
	}
	base := DefaultCapabilities()
	if have != 0 {
		held := allCapabilities(have)
		base = slices.DeleteFunc(base, func(c string) bool { return !slices.Contains(held, c) })
	}
	switch {
	case addAll:
		base = allCapabilities(have)
	case dropAll:
		base = nil
	}
	out := slices.DeleteFunc(base, func(c string) bool { return slices.Contains(drop, c) })
	if !addAll {
		out = append(out, add...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// normalize returns capability names in the form CAP_X, and whether ALL is among them.
func normalize(names []string) (out []string, all bool, err error) {
	for _, n := range names {
		short := strings.TrimPrefix(strings.ToUpper(n), "CAP_")
		switch {
		case short == "ALL":
			all = true
		case slices.Contains(knownCapabilities, short):
			out = append(out, "CAP_"+short)
		default:
			return nil, false, fmt.Errorf("capability %q: unknown", n)
		}
	}
	return out, all, nil
}
