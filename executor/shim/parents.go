package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/boxbuild/boxbuild/executor/cgroup"
)

// parentsFile is in Options.Dir: the cgroups that an Executor has made below parents of others, as a JSON list. It is written
// before the first sandbox is in one, and gone when they are.
const parentsFile = "cgroups.json"

// A parents knows where sandboxes have cgroups beside the executor's own: below each parent that one has asked for there is a
// cgroup with the executor's name, which nobody else has, so that a killed daemon's can be removed by the next.
type parents struct {
	file, name string
	cgroups    cgroup.Tree
	turn       chan struct{}   // held while the file is written
	known      map[string]bool // guarded by turn
}

// openParents removes what an earlier executor with these options has left.
func openParents(opts *Options) (*parents, error) {
	p := &parents{
		file: filepath.Join(opts.Dir, parentsFile), name: path.Base(opts.CgroupParent), cgroups: cgroup.At(cgroup.Root),
		turn: make(chan struct{}, 1), known: make(map[string]bool),
	}
	b, err := os.ReadFile(p.file)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the cgroups of sandboxes: %w", err)
	}
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		// A power cut has taken what was in it, and with that the cgroups. No sandbox must fail for it.
		if opts.Log != nil {
			fmt.Fprintf(opts.Log, "the list of the cgroups of sandboxes, %s, is damaged; it is begun anew: %v\n", p.file, err)
		}
	}
	for _, dir := range list {
		p.known[dir] = true
	}
	return p, p.remove()
}

// add takes note of the parent that a sandbox asks for.
func (p *parents) add(ctx context.Context, parent string) error {
	if parent == "" {
		return nil
	}
	dir := path.Join("/", parent, p.name)
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if p.known[dir] {
		return nil
	}
	list := []string{dir}
	for d := range p.known {
		list = append(list, d)
	}
	// Not synced: what it names is gone after a power cut, too.
	b, err := json.Marshal(list)
	if err == nil {
		err = os.WriteFile(p.file+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(p.file+".new", p.file)
	}
	if err != nil {
		return fmt.Errorf("taking note of the parent cgroup: %w", err)
	}
	p.known[dir] = true
	return nil
}

// remove removes all of them, when no sandbox runs any more.
func (p *parents) remove() error {
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	var errs []error
	for dir := range p.known {
		if path.Clean(dir) != dir || !path.IsAbs(dir) || path.Base(dir) != p.name {
			continue // of a root directory that was called otherwise
		}
		errs = append(errs, p.cgroups.Remove(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	clear(p.known)
	if err := os.Remove(p.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting the cgroups of sandboxes: %w", err)
	}
	return nil
}
