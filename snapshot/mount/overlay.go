package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

// maxString is the longest value that fsconfig(2) takes for a string, without the NUL.
const maxString = 255

// openOverlay makes an overlay in the way that the kernel supports.
func openOverlay(m snapshot.Mount, o options) (int, error) {
	if len(m.Lower) > MaxLayers {
		return -1, fmt.Errorf("%w: %d given", ErrTooManyLayers, len(m.Lower))
	}
	if len(m.Lower) == 0 {
		return -1, errors.New("no lower layer given")
	}
	o.readOnly = o.readOnly || m.ReadOnly()
	if err := forgetVolatile(m); err != nil {
		return -1, err
	}
	if o.legacy || !hasAppend() {
		return legacyOverlay(m, o.readOnly)
	}
	return fsopenOverlay(m, o.readOnly)
}

// forgetVolatile removes the mark by which overlayfs refuses to mount an upper directory that was once mounted with
// "volatile": it means that the machine may have crashed since and that the directory may be damaged. Drafts never
// outlive a crash, as snapshotters sweep them when they are opened, so here the mark only says that the draft was mounted before.
func forgetVolatile(m snapshot.Mount) error {
	if m.Work == "" {
		return nil
	}
	mark := filepath.Join(m.Work, "work", "incompat", "volatile")
	err := unix.Unlink(filepath.Join(mark, "dirty"))
	if err == nil || errors.Is(err, unix.ENOENT) {
		err = unix.Rmdir(mark)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing the volatile mark of an earlier mount: %w", err)
	}
	return nil
}

// hasAppend says whether layers can be given one by one (Linux 6.7). A kernel that knows the key "lowerdir+" looks the
// path up at once and does not find it; one that knows the key not, but overlayfs in its present form, refuses the
// key; older ones collect what they are given and say nothing.
var hasAppend = sync.OnceValue(func() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	err = unix.FsconfigSetString(fs, "lowerdir+", "/proc/self/fd/no such descriptor")
	return errors.Is(err, unix.ENOENT)
})

func fsopenOverlay(m snapshot.Mount, readOnly bool) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("opening overlayfs: %w", err)
	}
	defer unix.Close(fs)
	c := config{fs: fs}
	defer c.close()
	for _, dir := range m.Lower {
		c.dir("lowerdir+", dir)
	}
	if m.Upper != "" {
		c.dir("upperdir", m.Upper)
		c.dir("workdir", m.Work)
	}
	for _, o := range m.Options {
		c.option(o)
	}
	c.do("creating the file system", func() error { return unix.FsconfigCreate(fs) })
	if c.err != nil {
		return -1, c.err
	}
	attr := 0
	if readOnly {
		attr = unix.MOUNT_ATTR_RDONLY
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return -1, fmt.Errorf("making the mount: %w", err)
	}
	return fd, nil
}

// A config sets the parameters of a file system context until the first that fails.
type config struct {
	fs   int
	err  error
	held []*os.File // open until the file system is made
}

func (c *config) do(what string, f func() error) {
	if c.err != nil {
		return
	}
	if err := f(); err != nil {
		c.err = fmt.Errorf("%s: %w%s", what, err, kernelMessage(c.fs))
	}
}

// dir sets key to the directory path. A path that is too long, or that has characters which overlayfs might take for
// separators or escapes in one version or another, is given as a descriptor.
func (c *config) dir(key, path string) {
	c.do("setting "+key+" to "+path, func() error {
		if len(path) <= maxString && !strings.ContainsAny(path, `\:,`) {
			return unix.FsconfigSetString(c.fs, key, path)
		}
		f, err := openPath(path)
		if err != nil {
			return err
		}
		c.held = append(c.held, f)
		return unix.FsconfigSetString(c.fs, key, Path(f))
	})
}

func (c *config) option(o string) {
	if o == "ro" || o == "rw" {
		return // of the mount, not of the file system
	}
	key, value, ok := strings.Cut(o, "=")
	c.do("setting "+o, func() error {
		if !ok {
			return unix.FsconfigSetFlag(c.fs, key)
		}
		return unix.FsconfigSetString(c.fs, key, value)
	})
}

func (c *config) close() {
	for _, f := range c.held {
		f.Close()
	}
}

// kernelMessage returns what the kernel has to say on the last failure, as " (…)", or nothing.
func kernelMessage(fs int) string {
	var all []string
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			break
		}
		// A message is "e text": e for error, w for warning, i for information.
		_, text, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
		all = append(all, text)
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, "; ") + ")"
}

// openPath opens a directory or file as a place, without following a symbolic link at its end.
func openPath(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
