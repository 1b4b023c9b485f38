package shim

import (
	"os"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
)

var _ executor.Confiner = (*Host)(nil)

// Confines implements executor.Confiner.
func (h *Host) Confines() executor.Modules {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	_, none := os.Stat("/sys/fs/selinux") // which the kernel makes if the module is enabled, whether anything is mounted there or not
	return executor.Modules{AppArmor: err == nil && strings.HasPrefix(string(b), "Y"), SELinux: none == nil}
}
