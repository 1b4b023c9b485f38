// Package bases finds the root file systems that tests and the demo build on. The script bases.sh beside it makes them
// from Debian packages; `make bases` runs it.
package bases

import (
	"os"
	"path/filepath"
)

// Dir returns the directory that bases.sh filled: BOXBUILD_BASES, or boxbuild/bases below the user's cache directory.
func Dir() string {
	if d := os.Getenv("BOXBUILD_BASES"); d != "" {
		return d
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), "cache")
	}
	return filepath.Join(cache, "boxbuild", "bases")
}

// Tar returns the path of a root file system as a tar: name is "busybox" or "debian-bookworm". ok is false if it has
// not been made.
func Tar(name string) (path string, ok bool) {
	path = filepath.Join(Dir(), name+".tar")
	_, err := os.Stat(path)
	return path, err == nil
}
