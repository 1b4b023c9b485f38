package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// wanted are the controllers of cgroup v2 that bound a sandbox, or tell what it used.
var wanted = []string{"cpu", "cpuset", "memory", "pids"}

// leafName is the cgroup that processes at the root of a container's hierarchy are moved to. Docker's own images for
// running Docker in a container call it so.
const leafName = "init"

// Delegate makes the cgroup parent, with version 2, and has every cgroup down to it hand out the controllers that the
// machine has and sandboxes want, or more names. With version 1 there is nothing to hand out.
//
// A cgroup that hands out controllers may have no processes ("no internal processes"); only the root of the machine may.
// In a container, with a cgroup namespace, the root is not that one, and the container's own processes are in it: they are
// moved into a cgroup below it. To go on without would be worse: the kernel would hand out those controllers that know
// threads, which makes the root a threaded domain, below which nothing can be limited in memory, nor listed, nor killed.
func (t Tree) Delegate(parent string, more ...string) error {
	if !t.unified {
		return nil
	}
	dir := t.root
	for _, name := range append([]string{""}, strings.Split(strings.Trim(parent, "/"), "/")...) {
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making cgroup: %w", err)
		}
		err := handOut(dir, more)
		// Processes that start in the meantime are where their parents were.
		for tries := 0; errors.Is(err, unix.EBUSY) && dir == t.root && tries < 100; tries++ {
			if err := vacate(t.root); err != nil {
				return err
			}
			err = handOut(dir, more)
		}
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("%w: it has processes of its own; sandboxes need a parent that has none", err)
		}
		if err != nil {
			return fmt.Errorf("handing out controllers of cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// handOut makes the cgroup dir hand out what it does not yet, of what it has and is wanted, also of more.
func handOut(dir string, more []string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "cgroup.subtree_control")
	handed, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	words := missing(string(have), string(handed), more...)
	if words == "" {
		return nil
	}
	return writeFile(file, words) // all or none
}

// missing returns what to write to cgroup.subtree_control, given what it and cgroup.controllers hold.
func missing(have, handed string, more ...string) string {
	available, already := strings.Fields(have), strings.Fields(handed)
	var words []string
	for _, c := range slices.Concat(wanted, more) {
		if slices.Contains(available, c) && !slices.Contains(already, c) {
			words = append(words, "+"+c)
		}
	}
	return strings.Join(words, " ")
}

// vacate moves the processes at root to the cgroup leafName.
func vacate(root string) error {
	leaf := filepath.Join(root, leafName)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making cgroup: %w", err)
	}
	for _, pid := range processes(root) {
		if pid == 0 {
			continue // not to be named from here; writing 0 would move this process
		}
		// One that has ended meanwhile needs no moving.
		err := writeFile(filepath.Join(leaf, "cgroup.procs"), strconv.Itoa(pid))
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("moving process %d to cgroup %s: %w", pid, leaf, err)
		}
	}
	return nil
}
