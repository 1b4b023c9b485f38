package sandbox

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
)

var (
	sysctlName = regexp.MustCompile(`^[a-zA-Z0-9_-]+([./][a-zA-Z0-9_-]+)+$`)
	ipcSysctls = []string{
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
		"kernel.shmmni", "kernel.shm_rmid_forced",
	}
)

// validateSysctls lets only those pass that belong to a namespace which the sandbox has of its own, and only values
// that cannot be taken for a second setting by whatever reads them next (CVE-2022-0811).
func validateSysctls(spec *executor.Spec) error {
	for name, value := range spec.Sysctls {
		if !sysctlName.MatchString(name) {
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
