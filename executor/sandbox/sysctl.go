package sandbox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
)

var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
	"kernel.shmmni", "kernel.shm_rmid_forced",
}

// isSysctl says whether name is two or more words joined by dots or slashes.
func isSysctl(name string) bool {
	words := strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '/' })
	if len(words) < 2 || len(strings.Join(words, ".")) != len(name) {
		return false
	}
	for _, r := range name {
		if !strings.ContainsRune("./_-", r) && (r > 'z' || r < '0' || r > '9' && r < 'A' || r > 'Z' && r < 'a') {
			return false
		}
	}
	return true
}

// validateSysctls lets only those pass that belong to a namespace which the sandbox has of its own, and only values
// that cannot be taken for a second setting by whatever reads them next (CVE-2022-0811).
func validateSysctls(spec *executor.Spec) error {
	for name, value := range spec.Sysctls {
		if !isSysctl(name) {
			return fmt.Errorf("sysctl %q: not a name of a kernel parameter", name)
		}
		if strings.ContainsAny(value, "+,=\n\x00") {
			return fmt.Errorf("sysctl %s=%q: the value contains one of + , = newline NUL", name, value)
		}
		dotted := strings.ReplaceAll(name, "/", ".")
		switch {
		case slices.Contains(ipcSysctls, dotted) || strings.HasPrefix(dotted, "fs.mqueue."):
			if spec.HostIPC {
				return fmt.Errorf("sysctl %s: belongs to the host's IPC namespace", name)
			}
		case strings.HasPrefix(dotted, "net."):
			if spec.Network.Mode == executor.NetworkHost {
				return fmt.Errorf("sysctl %s: belongs to the host's network namespace", name)
			}
		case dotted == "kernel.domainname":
		default:
			return fmt.Errorf("sysctl %s: belongs to no namespace of the sandbox", name)
		}
	}
	return nil
}
