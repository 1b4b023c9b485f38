package executor

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// ErrMountOption says that there is no such option.
var ErrMountOption = errors.New("unknown option")

// mountFlags are options of mount(8) that have no field of their own: when times of access are written, what is written at
// once, and whether symbolic links are followed. recursiveFlags are for the mounts below a Bind, too (runtime specification,
// config.md, "Linux mount options").
var (
	mountFlags = []string{
		"async", "atime", "diratime", "dirsync", "iversion", "lazytime", "loud", "mand", "noatime", "nodiratime", "noiversion",
		"nolazytime", "nomand", "norelatime", "nostrictatime", "nosymfollow", "relatime", "silent", "strictatime", "symfollow", "sync",
	}
	recursiveFlags = []string{
		"ratime", "rdev", "rdiratime", "rexec", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime",
		"rnosuid", "rnosymfollow", "rrelatime", "rstrictatime", "rsuid", "rsymfollow",
	}
	propagations = []string{"private", "rprivate", "slave", "rslave", "shared", "rshared"}
	tmpfsData    = []string{"size", "nr_inodes", "nr_blocks", "mpol", "huge"}
)

// IsMountFlag says whether Mount.Flags may have o in a mount of that type.
func IsMountFlag(t MountType, o string) bool {
	return slices.Contains(mountFlags, o) || t == Bind && slices.Contains(recursiveFlags, o)
}

// IsTmpfsData says whether Mount.Data may have o.
func IsTmpfsData(o string) bool {
	name, _, _ := strings.Cut(o, "=")
	return slices.Contains(tmpfsData, name) && !strings.ContainsAny(o, ",\x00\n")
}

// SetOption applies an option that mount(8) has for every file system, or tmpfs(5) for a Tmpfs. Of options that contradict
// each other the one that is applied last counts. What is said of a Tmpfs that concerns only others, who do not see it, is
// without effect. The error is ErrMountOption or about the option's value, and does not name the option.
func (m *Mount) SetOption(o string) error {
	if m.setFlag(o) || m.setKind(o) {
		return nil
	}
	if IsMountFlag(m.Type, o) {
		m.Flags = append(m.Flags, o)
		return nil
	}
	if m.Type != Tmpfs {
		return ErrMountOption
	}
	return m.setTmpfs(o)
}

// setFlag applies an option that has a field.
func (m *Mount) setFlag(o string) bool {
	switch o {
	case "", "defaults":
	case "ro", "rw":
		m.ReadOnly = o == "ro"
	case "suid", "nosuid":
		m.NoSuid = o == "nosuid"
	case "dev", "nodev":
		m.NoDev = o == "nodev"
	case "exec", "noexec":
		m.NoExec = o == "noexec"
	default:
		return false
	}
	return true
}

// setKind applies an option that says what a bind mount takes along, and how mounts spread.
func (m *Mount) setKind(o string) bool {
	spreads := slices.Contains(propagations, o)
	switch {
	case m.Type == Tmpfs:
		return spreads || o == "unbindable" || o == "runbindable"
	case spreads:
		m.Propagation = o
	case o == "bind" || o == "rbind":
		m.NonRecursive = o == "bind"
	case o == "rro" || o == "rrw":
		m.ReadOnly = o == "rro"
	default:
		return false
	}
	return true
}

func (m *Mount) setTmpfs(o string) (err error) {
	key, value, _ := strings.Cut(o, "=")
	switch {
	case key == "mode":
		var mode uint64
		mode, err = strconv.ParseUint(value, 8, 12)
		m.Mode = uint32(mode)
	case key == "uid":
		m.UID, err = strconv.Atoi(value)
	case key == "gid":
		m.GID, err = strconv.Atoi(value)
	case IsTmpfsData(o):
		m.Data = append(m.Data, o)
	default:
		err = ErrMountOption
	}
	return err
}
