package volume

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker"
)

func formatBytes(n uint64) string { return strconv.FormatUint(n, 10) }

// The options of the driver, as docker's: mount(8)'s type, device and o.
const (
	optType   = "type"
	optDevice = "device"
	optFlags  = "o"
)

// checkOptions refuses options that are not the driver's, and any of them without those that it needs.
func checkOptions(opts map[string]string) error {
	for key := range opts {
		switch key {
		case optType, optDevice, optFlags:
		case "size":
			n, err := units.RAMInBytes(opts[key])
			if err != nil {
				return worker.Invalidf("%v", err)
			}
			if n > 0 {
				return worker.Invalidf("quota size requested but no quota support")
			}
		default:
			return worker.Invalidf("invalid option: %q", key)
		}
	}
	if opts[optType] == "" && opts[optDevice] == "" && opts[optFlags] == "" {
		return nil
	}
	for _, key := range []string{optDevice, optType} {
		if opts[key] == "" {
			return worker.Invalidf("missing required option: %q", key)
		}
	}
	_, err := parseMount(opts)
	return err
}

// A mounting is what mount(2) is asked for.
type mounting struct {
	source, fstype, data string
	flags                uintptr
	propagation          uintptr
}

// flags are mount(8)'s words for mount(2)'s flags: what to set, and what to clear.
var flags = map[string]struct{ set, clear uintptr }{
	"defaults": {}, "rw": {clear: unix.MS_RDONLY}, "ro": {set: unix.MS_RDONLY},
	"bind": {set: unix.MS_BIND}, "rbind": {set: unix.MS_BIND | unix.MS_REC},
	"suid": {clear: unix.MS_NOSUID}, "nosuid": {set: unix.MS_NOSUID},
	"dev": {clear: unix.MS_NODEV}, "nodev": {set: unix.MS_NODEV},
	"exec": {clear: unix.MS_NOEXEC}, "noexec": {set: unix.MS_NOEXEC},
	"sync": {set: unix.MS_SYNCHRONOUS}, "async": {clear: unix.MS_SYNCHRONOUS},
	"dirsync": {set: unix.MS_DIRSYNC}, "mand": {set: unix.MS_MANDLOCK}, "nomand": {clear: unix.MS_MANDLOCK},
	"atime": {clear: unix.MS_NOATIME}, "noatime": {set: unix.MS_NOATIME},
	"diratime": {clear: unix.MS_NODIRATIME}, "nodiratime": {set: unix.MS_NODIRATIME},
	"relatime": {set: unix.MS_RELATIME}, "norelatime": {clear: unix.MS_RELATIME},
	"strictatime": {set: unix.MS_STRICTATIME}, "nostrictatime": {clear: unix.MS_STRICTATIME},
}

var propagations = map[string]uintptr{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// parseMount reads the options of a volume that is mounted.
func parseMount(opts map[string]string) (*mounting, error) {
	m := &mounting{source: opts[optDevice], fstype: opts[optType]}
	var data []string
	for word := range strings.SplitSeq(opts[optFlags], ",") {
		f, known := flags[word]
		p, propagates := propagations[word]
		switch {
		case word == "":
		case known:
			m.flags = m.flags&^f.clear | f.set
		case propagates:
			m.propagation = p
		default:
			data = append(data, word)
		}
	}
	if m.flags&unix.MS_BIND != 0 && !filepath.IsAbs(m.source) {
		return nil, worker.Invalidf("invalid device %q: a bind needs an absolute path", m.source)
	}
	m.data = strings.Join(data, ",")
	return m, nil
}

// resolve replaces the name in an addr= option by an address, which the kernel needs.
func (m *mounting) resolve(ctx context.Context) error {
	words := strings.Split(m.data, ",")
	i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "addr=") })
	if i < 0 || !strings.HasPrefix(m.fstype, "nfs") && m.fstype != "cifs" {
		return nil
	}
	host := strings.TrimPrefix(words[i], "addr=")
	if net.ParseIP(host) != nil {
		return nil
	}
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return fmt.Errorf("finding the address of %s: %w", host, err)
	}
	words[i] = "addr=" + addrs[0]
	m.data = strings.Join(words, ",")
	return nil
}

// mount mounts at target, through a descriptor so that nothing is mounted elsewhere if the path is changed meanwhile.
func (m *mounting) mount(ctx context.Context, target string) error {
	if err := m.resolve(ctx); err != nil {
		return err
	}
	dir, err := openDir(target)
	if err != nil {
		return err
	}
	defer dir.Close()
	at := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	if err := unix.Mount(m.source, at, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mounting %s %s: %w", m.fstype, m.source, err)
	}
	if m.flags&unix.MS_BIND != 0 {
		// A bind takes its flags in a second step only.
		const kept = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		if f := m.flags & kept; f != 0 {
			if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|f, ""); err != nil {
				return errors.Join(fmt.Errorf("mounting %s: %w", m.source, err), unmount(target))
			}
		}
	}
	if m.propagation != 0 {
		if err := unix.Mount("", target, "", m.propagation, ""); err != nil {
			return errors.Join(fmt.Errorf("mounting %s: %w", m.source, err), unmount(target))
		}
	}
	return nil
}

// openDir opens a directory of the store without following a link at its end.
func openDir(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// mounted says whether something is mounted at path.
func mounted(path string) (bool, error) {
	var here, above unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &here)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	// What is mounted may be a server that does not answer.
	if err == nil && here.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return here.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	if err != nil {
		return true, nil //nolint:nilerr // a directory of ours can always be looked at: it is what is on it that cannot
	}
	if err := unix.Statx(unix.AT_FDCWD, filepath.Dir(path), 0, 0, &above); err != nil {
		return false, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return here.Dev_major != above.Dev_major || here.Dev_minor != above.Dev_minor, nil
}

// unmount takes away what is mounted at path.
func unmount(path string) error {
	for {
		on, err := mounted(path)
		if err != nil || !on {
			return err
		}
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if errors.Is(err, unix.EINVAL) {
			return nil // it is no mount point after all
		}
		if err != nil {
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
	}
}

func (s *Service) unmount(name string) error { return unmount(s.path(name)) }

// Mount returns the directory of the volume for a container, which has called Hold; it mounts what the volume's options
// say, unless a container has it mounted already. The caller closes the directory, and calls Unmount when the container
// has ended.
func (s *Service) Mount(ctx context.Context, name string, use *worker.VolumeUse) (*os.File, error) {
	var dir *os.File
	err := s.locked(ctx, name, func(v *vol) error {
		s.mu.Lock()
		opts := v.Options
		s.mu.Unlock()
		target := s.path(name)
		if opts[optDevice] != "" {
			on, err := mounted(target)
			if err == nil && !on {
				var m *mounting
				if m, err = parseMount(opts); err == nil {
					err = m.mount(ctx, target)
				}
			}
			if err != nil {
				return fmt.Errorf("error while mounting volume '%s': %w", target, err)
			}
		}
		var err error
		if dir, err = openDir(target); err != nil {
			return fmt.Errorf("opening volume %s: %w", name, err)
		}
		s.use(v, use.Container, use.Destination != "")
		return nil
	})
	if err == nil && use.Destination != "" {
		s.publish(name, events.ActionMount, map[string]string{
			"driver": driver, "container": use.Container, "destination": use.Destination,
			"read/write": strconv.FormatBool(!use.ReadOnly), "propagation": use.Propagation,
		})
	}
	return dir, err
}

// InUse says that a container, which was started by a daemon before this one, has the volume.
func (s *Service) InUse(ctx context.Context, name, container string) error {
	return s.locked(ctx, name, func(v *vol) error {
		s.use(v, container, true)
		return nil
	})
}

// use notes that a container has the volume, and whether that was told.
func (s *Service) use(v *vol, container string, told bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.users[container] = v.users[container] || told
	v.holders[container] = true
}

// Unmount says that the container does not use the volume any more. The last one unmounts it.
func (s *Service) Unmount(ctx context.Context, name, container string) error {
	told := false
	err := s.locked(ctx, name, func(v *vol) error {
		s.mu.Lock()
		_, used := v.users[container]
		told = v.users[container]
		delete(v.users, container)
		last := len(v.users) == 0 && v.Options[optDevice] != ""
		s.mu.Unlock()
		if !used || !last {
			return nil
		}
		return s.unmount(name)
	})
	if err == nil && told {
		s.publish(name, events.ActionUnmount, map[string]string{"driver": driver, "container": container})
	}
	return err
}
