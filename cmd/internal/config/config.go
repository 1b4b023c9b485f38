// Package config holds the configuration of each program, and is the only reader of flags, environment and files.
//
// A configuration begins as its defaults; a file, the environment and flags are laid over it in that order, and Validate
// says whether the whole makes sense. The comment of a field is its manual.
//
// Client and daemon find one another by the root: an address that was not given is derived from it in the same way on
// both sides, so that daemons with different roots run side by side and a client reaches the one it means.
package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// socketName is the name of the socket in its directory.
const socketName = "boxbuild.sock"

// maxSocketPath is how long the path of a Unix socket can be: sun_path without the final zero.
const maxSocketPath = 107

// An Env is the environment that a configuration is read from.
type Env struct {
	Lookup func(string) (string, bool)
	UID    int
	Home   string // "" if there is none
}

// Getenv returns a variable, "" if it is not set.
func (e Env) Getenv(name string) string {
	v, _ := e.Lookup(name)
	return v
}

// OSEnv is the environment of this process.
func OSEnv() Env {
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	return Env{Lookup: os.LookupEnv, UID: os.Geteuid(), Home: home}
}

// defaultRoot is where the state is if nobody says otherwise.
func (e Env) defaultRoot() string {
	if e.UID == 0 {
		return "/var/lib/boxbuild"
	}
	if dir := e.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "boxbuild")
	}
	return filepath.Join(e.Home, ".local", "share", "boxbuild")
}

// cacheDir is where a client keeps what it can do without; "" if the user has no such place.
func (e Env) cacheDir() string {
	if dir := e.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "boxbuild")
	}
	if !filepath.IsAbs(e.Home) {
		return ""
	}
	return filepath.Join(e.Home, ".cache", "boxbuild")
}

// runtimeDir is where sockets are; "" if the user has no such place.
func (e Env) runtimeDir() string {
	if e.UID == 0 {
		return "/run/boxbuild"
	}
	if dir := e.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "boxbuild")
	}
	dir := filepath.Join("/run/user", strconv.Itoa(e.UID))
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return filepath.Join(dir, "boxbuild")
	}
	return ""
}

// addressOf returns the address of the daemon with that root: the well-known one for the default root, else a socket in
// the root, or, where that path would be too long for a socket, one that is named after a hash of it.
func (e Env) addressOf(root string) string {
	run := e.runtimeDir()
	if root == e.defaultRoot() && run != "" {
		return "unix://" + filepath.Join(run, socketName)
	}
	path := filepath.Join(root, socketName)
	if len(path) > maxSocketPath && run != "" {
		sum := sha256.Sum256([]byte(root))
		path = filepath.Join(run, hex.EncodeToString(sum[:8])+".sock")
	}
	return "unix://" + path
}

// locate finds root and address from flags and environment. A flag goes before a variable: with --root, BOXBUILD_ADDR does
// not count, and the address is derived from the root. given says that the address itself was given.
func (e Env) locate(flagRoot, flagAddr string) (root, addr string, given bool, err error) {
	root = e.defaultRoot()
	if env := e.Getenv("BOXBUILD_ROOT"); env != "" {
		root = env
	}
	if flagRoot != "" {
		root = flagRoot
	}
	if root, err = filepath.Abs(root); err != nil {
		return "", "", false, fmt.Errorf("finding the root: %w", err)
	}
	addr = flagAddr
	if flagRoot == "" {
		addr = cmp.Or(addr, e.Getenv("BOXBUILD_ADDR"))
	}
	if addr != "" {
		return root, addr, true, nil
	}
	return root, e.addressOf(root), false, nil
}

// SocketPath returns the path of a unix:// address; an error for any other.
func SocketPath(addr string) (string, error) {
	path, ok := strings.CutPrefix(addr, "unix://")
	switch {
	case !ok:
		return "", fmt.Errorf("address %q: only unix:///path is supported", addr)
	case !filepath.IsAbs(path):
		return "", fmt.Errorf("address %q: the path is not absolute", addr)
	case len(path) > maxSocketPath:
		return "", fmt.Errorf("address %q: the path of a socket has at most %d bytes", addr, maxSocketPath)
	}
	return filepath.Clean(path), nil
}

// LogFile is where a daemon that was started by a client logs to.
func LogFile(root string) string { return filepath.Join(root, "logs", "boxbuildd.log") }

// checkRoot says whether root can be one.
func checkRoot(root string) error {
	if !filepath.IsAbs(root) {
		return fmt.Errorf("root %q is not absolute", root)
	}
	if root == "/" {
		return errors.New("the root directory cannot be /")
	}
	return nil
}
