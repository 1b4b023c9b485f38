package cdi

import (
	"cmp"
	"errors"
	"fmt"
	"os"

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
		err := to.SetOption(o)
		if errors.Is(err, executor.ErrMountOption) && to.Type == executor.Bind {
			continue // the kernel takes no notice of it, so that nobody else does
		}
		if err != nil {
			return nil, fmt.Errorf("%s option %q: %w", cmp.Or(m.Type, "bind"), o, err)
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
