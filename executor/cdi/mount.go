package cdi

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
)

// addMounts adds mounts of files and directories of this machine, and of memory.
func addMounts(spec *executor.Spec, list []specs.Mount) (done func(), err error) {
	var files []*os.File
	done = func() {
		for _, f := range files {
			f.Close()
		}
	}
	for i := range list {
		m, err := mount(&list[i])
		if err != nil {
			done()
			return nil, fmt.Errorf("mounting a device's files at %s: %w", list[i].Destination, err)
		}
		if m.Source != nil {
			files = append(files, m.Source)
		}
		spec.Mounts = append(spec.Mounts, *m)
	}
	return done, nil
}

func mount(m *specs.Mount) (*executor.Mount, error) {
	to := &executor.Mount{Target: m.Destination}
	switch m.Type {
	case "tmpfs":
		to.Type = executor.Tmpfs
	case "", "bind", "none":
	default:
		return nil, fmt.Errorf("unsupported type %q", m.Type)
	}
	for _, o := range m.Options {
		if flag(to, o) || to.Type != executor.Tmpfs {
			continue
		}
		if err := tmpfsOption(to, o); err != nil {
			return nil, fmt.Errorf("tmpfs option %q: %w", o, err)
		}
	}
	if to.Type == executor.Tmpfs {
		return to, nil
	}
	fd, err := unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: m.Source, Err: err}
	}
	to.Source = os.NewFile(uintptr(fd), m.Source)
	return to, nil
}

// flag applies an option that every kind of mount has. Of two that contradict each other the later counts.
func flag(m *executor.Mount, o string) bool {
	switch o {
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

// idle are options that change nothing about an empty file system which nobody else sees: when times of access are written,
// what is written at once, and how mounts spread.
var idle = []string{
	"", "defaults", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
	"lazytime", "nolazytime", "sync", "async", "dirsync", "private", "rprivate", "slave", "rslave", "shared", "rshared",
	"unbindable", "runbindable",
}

// tmpfsOption applies an option of a tmpfs; tmpfs(5) has them.
func tmpfsOption(m *executor.Mount, o string) (err error) {
	key, value, _ := strings.Cut(o, "=")
	switch key {
	case "mode":
		var mode uint64
		mode, err = strconv.ParseUint(value, 8, 12)
		m.Mode = uint32(mode)
	case "uid":
		m.UID, err = strconv.Atoi(value)
	case "gid":
		m.GID, err = strconv.Atoi(value)
	case "size", "nr_inodes", "nr_blocks", "mpol", "huge":
		m.Data = append(m.Data, o)
	default:
		if !slices.Contains(idle, o) {
			return errors.New("unknown option")
		}
	}
	return err
}
