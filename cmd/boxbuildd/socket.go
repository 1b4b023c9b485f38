package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A socket is a listening Unix socket with a name.
type socket struct {
	*net.UnixListener
	path string
	info os.FileInfo // of the socket itself, to know it again
}

// listenUnix makes the socket at path for a user and a group, -1 for the daemon's own. A stale socket is replaced; one at
// which somebody answers, or a file that is no socket, is an error.
//
// The socket is made under another name and gets its owner and mode before it gets its own, so that there is no moment
// at which it is open to others, or at which there is none.
func listenUnix(path string, uid, gid int) (*socket, error) {
	if err := makeSocketDir(filepath.Dir(path), gid); err != nil {
		return nil, fmt.Errorf("listening at %s: %w", path, err)
	}
	if err := checkStale(path); err != nil {
		return nil, err
	}
	// The name must fit into sun_path too: it is no longer than the final one.
	temp := filepath.Join(filepath.Dir(path), "."+strconv.Itoa(os.Getpid()%1e7))
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listening at %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: temp})
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	info, err := publish(temp, path, uid, gid)
	if err != nil {
		_ = l.Close()
		_ = os.Remove(temp)
		return nil, fmt.Errorf("listening at %s: %w", path, err)
	}
	return &socket{UnixListener: l, path: path, info: info}, nil
}

// Addr implements net.Listener: the name that clients know, where the kernel only knows the one that it was made under.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: s.path} }

// publish gives the socket its owner, its mode and its name.
func publish(temp, path string, uid, gid int) (os.FileInfo, error) {
	if err := os.Lchown(temp, uid, gid); err != nil {
		return nil, err
	}
	if err := os.Chmod(temp, 0o660); err != nil {
		return nil, err
	}
	info, err := os.Lstat(temp)
	if err != nil {
		return nil, err
	}
	return info, os.Rename(temp, path)
}

// socketDirMode is that of directories that hold the socket: its group may pass and see nothing.
const socketDirMode = 0o710

// makeSocketDir makes the directory of the socket, if it is not there, for nobody else but the group.
func makeSocketDir(dir string, gid int) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err == nil {
		if gid >= 0 && st.Uid == uint32(os.Geteuid()) && st.Mode == unix.S_IFDIR|socketDirMode {
			return os.Lchown(dir, -1, gid) // the root, or one that was made here for another group
		}
		return nil // whoever made it has said who gets in
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, socketDirMode); err != nil {
		return err
	}
	if err := os.Chmod(dir, socketDirMode); err != nil {
		return err
	}
	return os.Lchown(dir, -1, gid)
}

// checkStale returns nil if there is nothing at path, or a socket that nobody listens at.
func checkStale(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listening at %s: %w", path, err)
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listening at %s: there is a file that is no socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("listening at %s: another daemon answers there", path)
	}
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("listening at %s: %w", path, err)
}

// groupID returns the number of a group, -1 for none.
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if n, err := strconv.Atoi(group); err == nil {
		return n, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("finding the group of the socket: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

// remove takes the name away, unless another daemon has it by now.
func (s *socket) remove() {
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.info) {
		_ = os.Remove(s.path) // a stale socket does no harm
	}
}
