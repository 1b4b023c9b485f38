//go:build cgo

package libcontainer

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// A skeleton is what of a sandbox's file systems depends on nothing but its namespaces: /proc and /sys with what is masked in
// them, /dev with the devices, and the cgroup hierarchies. A spare makes it while it waits, below skeletonDir of its own
// mount namespace, where no image has anything to say. When its root comes, the finished trees are moved there, to directories
// that are opened without following a link (see placement), and libcontainer is left with what remains. On its own it
// makes some forty mounts and nodes in the root, each by a path that has to be looked up several times, as it is the image's.
//
// A sandbox that wants anything else at these places gets all of it from libcontainer: see skeletonOf.
type skeleton struct {
	Mounts []skeletonMount // those of /sys and below it last
	Nodes  []skeletonNode
	Masks  []skeletonMask
}

type skeletonMount struct {
	Type, Source, Target, Data string
	Flags                      uintptr
	Groups                     []string `json:",omitempty"` // of type cgroup: the hierarchies
}

type skeletonNode struct {
	Path       string
	Mode       uint32
	Dev        int
	Owner, Grp int
}

// A skeletonMask is a path that is hidden, or can only be read.
type skeletonMask struct {
	Path     string
	ReadOnly bool
}

// A placement is a mount of the private root that is moved into the sandbox's, or a file there that is mounted read-only, as
// libcontainer would do it.
type placement struct {
	From, To string
	File     bool
}

// skeletonDir is where a spare makes its skeleton. The directories for it are in the runtime's private file system, and
// always empty there.
const skeletonDir = "/run/skeleton"

// Directories in skeletonDir, and so of the skeleton's trees.
const (
	procTree  = "/proc"
	devTree   = "/dev"
	sysTree   = "/sys"
	cgroupDir = "/sys/fs/cgroup"
	// The hierarchies wait here until /sys is there, which shows the network namespace that it is mounted in.
	cgroupStage = "/cgroup"
	maskStage   = "/mask" // an empty file system, to be mounted over directories
)

// skeletonTrees are what goes into the root, in that order: programs that look for the mount of a device, such as df, take the
// first that they find, and files of /dev are mounted in /proc.
var skeletonTrees = []string{devTree, procTree, sysTree}

// maxNodes bounds the nodes of a skeleton: a privileged sandbox has all of the machine's.
const maxNodes = 64

// makeSkeletonDirs makes the directories that skeletons are made in.
func makeSkeletonDirs() error {
	for _, d := range []string{procTree, devTree, sysTree, cgroupStage, maskStage} {
		if err := os.MkdirAll(skeletonDir+d, 0o700); err != nil {
			return fmt.Errorf("making the places of what is made ahead: %w", err)
		}
	}
	return nil
}

// hierarchies returns the names of the directories of the cgroup hierarchies of version 1 that sandboxes see.
var hierarchies = sync.OnceValue(func() []string {
	if isV2() {
		return nil
	}
	mounts, err := cgroups.GetCgroupMounts(false)
	if err != nil {
		return nil
	}
	var out []string
	for _, m := range mounts {
		name := filepath.Base(m.Mountpoint)
		if strings.Contains(name, ",") {
			return nil // which has links for its parts
		}
		out = append(out, name)
	}
	return out
})

// skeletonOf returns what of a sandbox with that configuration can be made ahead, and which of its mounts that are; nil if
// anything about them is unusual.
func skeletonOf(c *configs.Config) (*skeleton, map[*configs.Mount]bool) {
	if c.RootPropagation != 0 || c.MountLabel != "" || len(c.Devices) > maxNodes || !c.Namespaces.Contains(configs.NEWNS) {
		return nil, nil
	}
	s, made := new(skeleton), make(map[*configs.Mount]bool)
	for _, m := range c.Mounts {
		target := path.Clean(m.Destination)
		switch ours, usual := classify(m, target, c); {
		case !usual, isBelow(target, devTree) && s.mountAt(devTree) == nil: // it would be hidden
			return nil, nil
		case ours:
			made[m] = true
			s.Mounts = append(s.Mounts, skeletonMount{
				Type: m.Device, Source: m.Source, Target: target, Data: m.Data, Flags: uintptr(m.Flags),
			})
			if m.Device == "cgroup" {
				s.Mounts[len(s.Mounts)-1].Groups = hierarchies()
			}
		}
	}
	for _, t := range skeletonTrees {
		if s.mountAt(t) == nil {
			return nil, nil
		}
	}
	for _, d := range c.Devices {
		n, ok := skeletonNodeOf(d)
		if !ok {
			return nil, nil
		}
		if n.Path != "/dev/ptmx" {
			s.Nodes = append(s.Nodes, n)
		}
	}
	s.mask(c)
	return s, made
}

// classify says whether a mount is one of a skeleton, and whether it is not in the way of one.
func classify(m *configs.Mount, target string, c *configs.Config) (ours, usual bool) {
	switch {
	case target == procTree && m.Device == "proc",
		target == devTree && m.Device == "tmpfs",
		target == sysTree && m.Device == "sysfs",
		isBelow(target, devTree) && (m.Device == "tmpfs" || m.Device == "devpts" || m.Device == "mqueue"):
		// What else libcontainer can be told, of a mount that it makes.
		plain := len(m.PropagationFlags) == 0 && m.RecAttr == nil && m.IDMapping == nil && m.Extensions == 0 && m.ClearedFlags == 0
		if m.Device == "tmpfs" {
			// Without a mode it has that of the directory in the image; and it is made read-only at the end.
			plain = plain && strings.Contains(m.Data, "mode=") && m.Flags&unix.MS_RDONLY == 0
		}
		return plain, plain
	case target == cgroupDir && m.Device == "cgroup":
		return hierarchies() != nil && c.Namespaces.Contains(configs.NEWCGROUP) && len(m.PropagationFlags) == 0, true
	}
	for _, t := range skeletonTrees {
		if target == t || isBelow(target, t) {
			return false, false
		}
	}
	return false, true
}

func isBelow(name, dir string) bool { return strings.HasPrefix(name, dir+"/") }

func skeletonNodeOf(d *devices.Device) (skeletonNode, bool) {
	var kind uint32
	switch d.Type {
	case devices.CharDevice:
		kind = unix.S_IFCHR
	case devices.BlockDevice:
		kind = unix.S_IFBLK
	case devices.FifoDevice, devices.WildcardDevice: // which libcontainer can see to
	}
	dev, err := d.Mkdev()
	out := skeletonNode{
		Path: path.Clean(d.Path), Mode: kind | uint32(d.FileMode), Dev: int(dev), Owner: int(d.Uid), Grp: int(d.Gid),
	}
	return out, kind != 0 && err == nil && isBelow(out.Path, devTree)
}

// mask takes over the paths that are to be read-only or hidden; with variables of the kernel to set, which are below a path
// that is read-only afterwards, none.
func (s *skeleton) mask(c *configs.Config) {
	if len(c.Sysctl) > 0 {
		return
	}
	for _, p := range c.ReadonlyPaths {
		if s.masks(p) {
			s.Masks = append(s.Masks, skeletonMask{Path: p, ReadOnly: true})
		}
	}
	for _, p := range c.MaskPaths {
		if s.masks(p) {
			s.Masks = append(s.Masks, skeletonMask{Path: p})
		}
	}
}

// masks says whether a path is in the skeleton's trees.
func (s *skeleton) masks(name string) bool {
	if path.Clean(name) != name {
		return false
	}
	if name == cgroupDir || isBelow(name, cgroupDir) {
		return s.mountAt(cgroupDir) != nil
	}
	return isBelow(name, procTree) || isBelow(name, sysTree)
}

// mountAt returns the mount at a target, or nil.
func (s *skeleton) mountAt(target string) *skeletonMount {
	for i := range s.Mounts {
		if s.Mounts[i].Target == target {
			return &s.Mounts[i]
		}
	}
	return nil
}

// key is equal for equal skeletons, and empty for none.
func (s *skeleton) key() string {
	if s == nil {
		return ""
	}
	b, err := json.Marshal(s)
	if err != nil {
		return ""
	}
	return string(b)
}

// useSkeleton has config leave out what the spare has made, if that is what it wants, and returns where it has to be put in the
// root; nothing if libcontainer is to make all.
func (s *spare) useSkeleton(config *configs.Config, root *os.File) []placement {
	want, made := skeletonOf(config)
	if !s.staged || want == nil || want.key() != s.skeleton {
		return nil
	}
	var places []placement
	for _, t := range skeletonTrees {
		if !reaches(root, t, unix.S_IFDIR) {
			return nil
		}
		places = append(places, placement{From: skeletonDir + t, To: t})
	}
	var mounts []*configs.Mount
	for _, m := range config.Mounts {
		target := path.Clean(m.Destination)
		switch {
		case made[m]:
		case len(mounts) == 0 && isPlainFile(m) && reaches(root, target, unix.S_IFREG):
			places = append(places, placement{From: m.Source, To: target, File: true})
		default:
			mounts = append(mounts, m) // and all that follow, which may be below it
		}
	}
	config.Devices = nil // which are there
	config.Mounts = mounts
	for _, m := range want.Masks {
		is := func(p string) bool { return p == m.Path }
		if m.ReadOnly {
			config.ReadonlyPaths = slices.DeleteFunc(slices.Clone(config.ReadonlyPaths), is)
		} else {
			config.MaskPaths = slices.DeleteFunc(slices.Clone(config.MaskPaths), is)
		}
	}
	return places
}

// isPlainFile says whether a mount is that of a file in the manner of /etc/hosts.
func isPlainFile(m *configs.Mount) bool {
	const flags = unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if m.Device != "bind" || m.Flags != flags || m.ClearedFlags != 0 || m.RecAttr != nil || m.IDMapping != nil || len(m.PropagationFlags) > 0 {
		return false
	}
	fi, err := os.Lstat(m.Source)
	return err == nil && fi.Mode().IsRegular()
}

// inRoot opens a path in a root without following any link, nor leaving the root's file system.
func inRoot(root int, name string) (int, error) {
	return unix.Openat2(root, "."+name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// reaches says whether inRoot opens something of that type.
func reaches(root *os.File, name string, kind uint32) bool {
	fd, err := inRoot(int(root.Fd()), name)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == kind
}
