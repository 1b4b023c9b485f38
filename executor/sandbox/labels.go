package sandbox

import (
	"fmt"
	"path"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
)

// Unconfined is the name of the AppArmor profile that is none.
const Unconfined = "unconfined"

// labels returns the AppArmor profile of the sandbox's processes. To run without what was asked for would be to run less
// confined than somebody believes. SELinux labels are always refused: where the runtime is, selinuxfs is not, and so it would
// leave them out without a word.
func labels(spec *executor.Spec, host *Host) (apparmor string, err error) {
	if spec.AppArmor != "" && spec.AppArmor != Unconfined && !host.AppArmor {
		return "", fmt.Errorf("apparmor profile %q: this machine's kernel has no AppArmor", spec.AppArmor)
	}
	if spec.SELinux != "" {
		return "", fmt.Errorf("selinux label %q: labels of SELinux can't be set on this machine", spec.SELinux)
	}
	if !host.AppArmor {
		return "", nil
	}
	return spec.AppArmor, nil
}

// validatePaths checks what a caller wants masked or protected, and the adjustment of the score for who is killed first.
func validatePaths(spec *executor.Spec) error {
	for _, list := range [][]string{spec.MaskedPaths, spec.ReadonlyPaths} {
		for _, p := range list {
			if !path.IsAbs(p) || path.Clean(p) == "/" || strings.Contains(p, "\x00") {
				return fmt.Errorf("masked or read-only path %q: not an absolute path below the root", p)
			}
		}
	}
	if u := spec.Umask; u != nil && *u > 0o777 {
		return fmt.Errorf("umask %#o: want at most 0777", *u)
	}
	if a := spec.OOMScoreAdj; a != nil && (*a < -1000 || *a > 1000) {
		return fmt.Errorf("OOM score adjustment %d: want -1000 to 1000", *a)
	}
	return nil
}
