package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// umask returns the process's own. There is no way to read it but to set it.
func umask() os.FileMode {
	mask := unix.Umask(0)
	unix.Umask(mask)
	return os.FileMode(mask)
}
