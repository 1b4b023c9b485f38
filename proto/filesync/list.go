package filesync

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// list lists the directory from scratch. What an old node knows of a file that has not changed is taken over.
func (l *lister) list(j *job) ([]*job, error) {
	if err := l.collect(j); err != nil {
		return nil, err
	}
	prefix := len(j.rel) + 1
	if j.rel != "" {
		prefix++
	}
	all := string(l.paths)
	n := &node{names: make([]listed, 0, len(l.found))}
	picked := 0
	start := 0
	for i := range l.found {
		f := &l.found[i]
		p := all[start:f.end]
		start = f.end
		if f.gone {
			continue
		}
		n.names = append(n.names, listed{name: p[prefix:], kind: f.kind, at: -1, verdict: f.verdict})
		if f.verdict != treehash.Skip {
			n.names[len(n.names)-1].at = int32(i) // for now: where it was found
			picked++
		}
	}
	order := make([]int32, 0, picked)
	for i := range n.names {
		if n.names[i].at >= 0 {
			order = append(order, int32(i))
		}
	}
	slices.SortFunc(order, func(a, b int32) int { return strings.Compare(n.names[a].name, n.names[b].name) })
	n.entries = make([]treehash.Entry, picked)
	n.stamps = make([]stamp, picked)
	n.content = make([]solver.Digest, picked)
	n.sub = make([]*node, picked)
	j.result = n

	var kids []*job
	for k, i := range order {
		name := &n.names[i]
		f := &l.found[name.at]
		p := all[f.end-prefix-len(name.name) : f.end]
		name.at = int32(k)
		n.entries[k].Path = p
		if f.st.Type() == unix.S_IFDIR {
			if name.verdict == treehash.Walk {
				n.stamps[k].nlink = walkedOnly
			}
			kids = append(kids, j.child(k, name.name, p[1:]))
			continue
		}
		if err := l.entry(j, n, k, f); err != nil {
			return nil, err
		}
	}
	return kids, nil
}

// collect reads the names of the directory into l.found, with the verdict on each and the stat of those that count.
// l.paths gets their full paths.
func (l *lister) collect(j *job) error {
	state, err := j.stateOf(l.walk.filter)
	if err != nil {
		return err
	}
	l.paths, l.found = l.paths[:0], l.found[:0]
	return l.List(j.fd, func(name dirfd.Name) error {
		from := len(l.paths)
		l.paths = append(l.paths, '/')
		if j.rel != "" {
			l.paths = append(l.paths, j.rel...)
			l.paths = append(l.paths, '/')
		}
		l.paths = append(l.paths, name.Bytes()...)
		l.found = append(l.found, found{end: len(l.paths), kind: name.Type})
		f := &l.found[len(l.found)-1]
		f.verdict = treehash.Pick
		if l.walk.filter != nil {
			if f.verdict, _, err = l.walk.filter.Check(string(l.paths[from+1:]), state); err != nil {
				return err
			}
		}
		walked := f.verdict == treehash.Walk && f.kind != unix.DT_DIR && f.kind != unix.DT_UNKNOWN
		if f.verdict == treehash.Skip || walked {
			f.verdict = treehash.Skip
			return nil
		}
		if f.kind == unix.DT_DIR {
			f.st.Mode = unix.S_IFDIR // the rest is known when it is opened
			return nil
		}
		if err := name.Lstat(j.fd, &f.st); err != nil {
			f.gone = errors.Is(err, fs.ErrNotExist)
			if f.gone {
				return nil
			}
			return err
		}
		if f.verdict == treehash.Walk && f.st.Type() != unix.S_IFDIR {
			f.verdict = treehash.Skip
		}
		return nil
	})
}

// child makes the job for a directory in j's, whose listing is new.
func (j *job) child(slot int, name, rel string) *job {
	c := &job{parent: j, slot: slot, name: name, rel: rel, fd: -1}
	if j.prev != nil {
		if i, ok := j.prev.find(name); ok {
			c.prev = j.prev.sub[i]
		}
	}
	for _, a := range j.alts {
		if i, ok := a.find(name); ok && a.sub[i] != nil {
			c.alts = append(c.alts, a.sub[i])
		}
	}
	return c
}

// entry sets entry k of n, which is not a directory, from what an old node has, or else from the file.
func (l *lister) entry(j *job, n *node, k int, f *found) error {
	name := base(n.entries[k].Path)
	if j.prev != nil && adopt(n, k, j.prev, name, &f.st) {
		return nil
	}
	for _, a := range j.alts {
		if adopt(n, k, a, name, &f.st) {
			return nil
		}
	}
	n.stamps[k] = stampOf(&f.st)
	err := fill(&n.entries[k], j.fd, name, &f.st)
	if dirfd.Gone(err) || errors.Is(err, unix.EINVAL) { // not a symlink any more
		return &treehash.ChangedError{Path: n.entries[k].Path}
	}
	return err
}

// adopt takes an entry over from an old node if the file is unchanged.
func adopt(n *node, k int, old *node, name string, st *dirfd.Stat) bool {
	i, ok := old.find(name)
	if !ok || old.sub[i] != nil || !old.stamps[i].same(&old.entries[i], st) {
		return false
	}
	p := n.entries[k].Path
	n.entries[k], n.stamps[k], n.content[k] = old.entries[i], old.stamps[i], old.content[i]
	n.entries[k].Path = p
	return true
}
