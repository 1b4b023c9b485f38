package shim

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// nodes looks up the devices that spec asks for: every one of the host's for a privileged sandbox.
func nodes(spec *executor.Spec) ([]wire.Node, error) {
	list := spec.Devices
	if spec.Privileged {
		list = append([]executor.Device{{HostPath: "/dev", Path: "/dev", Access: "rwm"}}, list...)
	}
	var out []wire.Node
	for _, d := range list {
		found, err := lookUp(d)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// ownDirs are those below /dev that a sandbox has of its own.
var ownDirs = map[string]bool{"/dev/pts": true, "/dev/shm": true, "/dev/mqueue": true, "/dev/fd": true}

// lookUp returns the node d, or all nodes in the directory d.
func lookUp(d executor.Device) ([]wire.Node, error) {
	if d.Path == "" {
		d.Path = d.HostPath
	}
	if d.Access == "" {
		d.Access = "rwm"
	}
	if strings.Trim(d.Access, "rwm") != "" {
		return nil, fmt.Errorf("device %s: access %q: want some of r, w and m", d.HostPath, d.Access)
	}
	if d.Type != "" {
		return numbered(d)
	}
	path, err := filepath.EvalSymlinks(d.HostPath)
	if err != nil {
		return nil, fmt.Errorf("looking up device %s: %w", d.HostPath, err)
	}
	var out []wire.Node
	err = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && ownDirs[p]:
			return filepath.SkipDir
		case e.Type()&fs.ModeDevice == 0 || p == "/dev/console" || p == "/dev/ptmx":
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		n := wire.Node{
			Path: d.Path + strings.TrimPrefix(p, path), Type: "b", Access: d.Access, Mode: st.Mode & 0o777,
			Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), UID: st.Uid, GID: st.Gid,
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			n.Type = "c"
		}
		out = append(out, n)
		return nil
	})
	if err == nil && len(out) == 0 && !isDir(path) {
		err = fmt.Errorf("not a device")
	}
	if err != nil {
		return nil, fmt.Errorf("looking up device %s: %w", d.HostPath, err)
	}
	return out, nil
}

// numbered returns a node that is described in full.
func numbered(d executor.Device) ([]wire.Node, error) {
	if (d.Type != "c" && d.Type != "b") || !filepath.IsAbs(d.Path) || d.Mode&^0o777 != 0 {
		return nil, fmt.Errorf("device %s: type %q, mode %#o: want an absolute path, c or b, and permission bits", d.Path, d.Type, d.Mode)
	}
	return []wire.Node{{
		Path: d.Path, Type: d.Type, Access: d.Access, Mode: d.Mode, Major: d.Major, Minor: d.Minor, UID: d.UID, GID: d.GID,
	}}, nil
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
