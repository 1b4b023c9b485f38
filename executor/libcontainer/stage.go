//go:build cgo

package libcontainer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What the process of a spare does with a skeleton.

// make makes what does not depend on the network namespace. After an error what has been made is of no use, and of no harm.
func (s *skeleton) make() error {
	for i := range s.Mounts {
		m := &s.Mounts[i]
		var err error
		switch m.Target {
		case sysTree:
			continue
		case cgroupDir:
			err = m.groups(skeletonDir + cgroupStage)
		default:
			err = m.mount(skeletonDir + m.Target)
		}
		if err != nil {
			return fmt.Errorf("mounting %s ahead: %w", m.Target, err)
		}
	}
	for i := range s.Nodes {
		if err := s.Nodes[i].make(); err != nil {
			return fmt.Errorf("making %s ahead: %w", s.Nodes[i].Path, err)
		}
	}
	if err := unix.Mount("tmpfs", skeletonDir+maskStage, "tmpfs", unix.MS_RDONLY, "nr_blocks=1,nr_inodes=1"); err != nil {
		return fmt.Errorf("making a mask ahead: %w", err)
	}
	return s.cover(procTree)
}

// finish makes the rest, in the network namespace of the sandbox, and puts the trees into its root.
func (s *skeleton) finish(root string, places []placement) error {
	err := s.mountAt(sysTree).mount(skeletonDir + sysTree)
	if err == nil && s.mountAt(cgroupDir) != nil {
		err = unix.Mount(skeletonDir+cgroupStage, skeletonDir+cgroupDir, "", unix.MS_MOVE, "")
	}
	if err != nil {
		return fmt.Errorf("mounting %s: %w", sysTree, err)
	}
	if err := s.cover(sysTree); err != nil {
		return err
	}
	// A copy of a shared mount, as all are with systemd, would show all that is mounted on it wherever that one is seen.
	if err := unix.Mount("", root, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the root private: %w", err)
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the root: %w", err)
	}
	defer unix.Close(fd)
	for i := range places {
		if err := places[i].put(fd); err != nil {
			return fmt.Errorf("mounting %s: %w", places[i].To, err)
		}
	}
	return nil
}

func (p *placement) put(root int) error {
	target, err := inRoot(root, p.To)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if !p.File {
		return unix.MoveMount(unix.AT_FDCWD, p.From, target, "", unix.MOVE_MOUNT_T_EMPTY_PATH)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, p.From, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const attrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attrs}); err != nil {
		return err
	}
	return unix.MoveMount(fd, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// mount makes a mount of the skeleton at dir.
func (m *skeletonMount) mount(dir string) error {
	if isBelow(m.Target, devTree) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return unix.Mount(m.Source, dir, m.Type, m.Flags, m.Data)
}

// groups makes a directory of cgroup hierarchies. Its flags are those that libcontainer gives it, whatever m has: that is meant
// for the mounts in it.
func (m *skeletonMount) groups(dir string) error {
	const flags = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=755"); err != nil {
		return err
	}
	for _, name := range m.Groups {
		place := filepath.Join(dir, name)
		if err := os.Mkdir(place, 0o755); err != nil {
			return err
		}
		source, data := "cgroup", name
		if name == "systemd" {
			source, data = name, "name="+name
		}
		if err := unix.Mount(source, place, "cgroup", flags|m.Flags&unix.MS_RDONLY, data); err != nil {
			return err
		}
	}
	return nil
}

func (n *skeletonNode) make() error {
	file := skeletonDir + n.Path
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	err := unix.Mknod(file, n.Mode, n.Dev)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err == nil {
		err = unix.Chmod(file, n.Mode&^unix.S_IFMT) // whatever the umask is
	}
	if err == nil {
		err = unix.Chown(file, n.Owner, n.Grp)
	}
	return err
}

// cover sees to the masks in a tree. What is not there needs none.
func (s *skeleton) cover(tree string) error {
	for _, m := range s.Masks {
		if !isBelow(m.Path, tree) {
			continue
		}
		if err := m.make(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("masking %s: %w", m.Path, err)
		}
	}
	return nil
}

func (m *skeletonMask) make() error {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, skeletonDir+m.Path, how)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	source, flags := skeletonDir+m.Path, uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if m.ReadOnly {
		flags |= unix.AT_RECURSIVE
	} else {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		source = skeletonDir + "/dev/null"
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			source = skeletonDir + maskStage
		}
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if m.ReadOnly {
		// Of the mount itself only, as libcontainer does it.
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return err
		}
	}
	return unix.MoveMount(tree, "", fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
