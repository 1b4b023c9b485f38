// Package snapshottest has the conformance suite of snapshotters, and a Snapshotter for others' tests that can crash.
//
// The suite needs no root, but without root it leaves out what has to be mounted to be seen.
package snapshottest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/mount"
)

// An OpenFunc opens the snapshotter in dir. The suite calls it again for a directory whose snapshotter it has dropped,
// to simulate a kill. A snapshotter may have the methods
//
//	Close() error  // called at the end
//	Crash()        // called instead when a kill is simulated: ends background work, writes nothing out
//	Drain(context.Context) error // waits for background work
//
// One that is a snapshot.Keeper keeps the drafts of which Keep says so.
type OpenFunc func(t *testing.T, dir string) snapshot.Snapshotter

// TestSnapshotter checks that what open opens does what the contract in package snapshot says.
func TestSnapshotter(t *testing.T, open OpenFunc) {
	for _, c := range []struct {
		name string
		f    func(*env)
	}{
		{"Life", (*env).life},
		{"Layers", (*env).layers},
		{"Errors", (*env).errors},
		{"Names", (*env).names},
		{"InUse", (*env).inUse},
		{"NameIsFreeAgain", (*env).nameIsFreeAgain},
		{"AllOrder", (*env).allOrder},
		{"Usage", (*env).usage},
		{"Used", (*env).usedTime},
		{"RootAttributes", (*env).rootAttributes},
		{"Crash", (*env).crash},
		{"CommitRace", (*env).commitRace},
		{"RemoveRace", (*env).removeRace},
		{"Random", (*env).random},
		{"Deep", (*env).deep},
		{"Difference", (*env).difference},
		{"EmptyLayers", (*env).emptyLayers},
		{"Delta", (*env).delta},
		{"Kept", (*env).kept},
		{"KeptInUse", (*env).keptInUse},
		{"KeptCommit", (*env).keptCommit},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &env{T: t, dir: t.TempDir(), open: open}
			e.s = open(t, e.dir)
			t.Cleanup(func() { e.close() })
			c.f(e)
		})
	}
}

// An env is one test's snapshotter.
type env struct {
	*testing.T
	dir  string
	open OpenFunc
	s    snapshot.Snapshotter
	n    int // of drafts made by draft
}

func (e *env) close() {
	if c, ok := e.s.(interface{ Close() error }); ok {
		if err := c.Close(); err != nil {
			e.Error(err)
		}
	}
}

// kill drops the snapshotter and opens its directory again.
func (e *env) kill() {
	if c, ok := e.s.(interface{ Crash() }); ok {
		c.Crash()
	}
	e.s = e.open(e.T, e.dir)
}

func (e *env) drain() {
	if d, ok := e.s.(interface{ Drain(context.Context) error }); ok {
		e.must(d.Drain(e.Context()))
	}
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// want checks that err wraps one of targets, or is nil if one of them is.
func (e *env) want(what string, err error, target error) {
	e.Helper()
	if !errors.Is(err, target) {
		e.Errorf("%s: got error %v, want %v", what, err, target)
	}
}

// root calls f with a path to what mounts say, and ends the mount. It skips the test if that takes root's rights.
func (e *env) root(mounts []snapshot.Mount, f func(root string)) {
	e.Helper()
	if os.Getuid() != 0 {
		if len(mounts) != 1 || mounts[0].Type != "bind" {
			e.Skip("needs root")
		}
		f(mounts[0].Source)
		return
	}
	m, err := mount.Open(e.Context(), mounts)
	e.must(err)
	defer m.Close()
	f(mount.Path(m))
}

// layer commits id on parent, with what f writes. f may be nil.
func (e *env) layer(id, parent snapshot.ID, f func(root string)) {
	e.Helper()
	d := e.draft()
	mounts, err := e.s.Prepare(e.Context(), d, parent)
	e.must(err)
	if f != nil {
		e.root(mounts, f)
	}
	e.must(e.s.Commit(e.Context(), d, id))
}

// write is layer without a mount, where that is possible.
func (e *env) write(id, parent snapshot.ID, f func(dir string)) {
	e.Helper()
	w, ok := e.s.(snapshot.DraftWriter)
	if !ok {
		e.layer(id, parent, f)
		return
	}
	d := e.draft()
	_, err := e.s.Prepare(e.Context(), d, parent)
	e.must(err)
	dir, ok, err := w.DraftUpper(e.Context(), d)
	e.must(err)
	if !ok || !filepath.IsAbs(dir) {
		e.Fatalf("the directory of %s is %q, %v", d, dir, ok)
	}
	f(dir)
	e.must(e.s.Commit(e.Context(), d, id))
}

func (e *env) draft() snapshot.Draft {
	e.n++
	return snapshot.Draft(fmt.Sprintf("d%d", e.n))
}

// files returns what is in id: regular files with their content, directories as "/", links as "-> target".
func (e *env) files(id snapshot.ID) map[string]string {
	e.Helper()
	d := e.draft()
	mounts, err := e.s.View(e.Context(), d, id)
	e.must(err)
	got := make(map[string]string)
	e.root(mounts, func(root string) { got = tree(e.T, root) })
	e.must(e.s.Discard(e.Context(), d))
	return got
}

func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	// Behind the slash: the root may be a link of procfs.
	err := filepath.WalkDir(root+"/", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || name == "." {
			return err
		}
		switch {
		case d.IsDir():
			got[name] = "/"
		case d.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			got[name] = "-> " + target
			return err
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			got[name] = string(b)
			return err
		default:
			got[name] = d.Type().String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// all returns the snapshots in the order of All.
func (e *env) all() []snapshot.Info {
	e.Helper()
	var infos []snapshot.Info
	for i, err := range e.s.All(e.Context()) {
		e.must(err)
		infos = append(infos, i)
	}
	return infos
}

// file returns a func for layer that writes files: name, content, name, content …
func file(t *testing.T, nameContent ...string) func(root string) {
	return func(root string) {
		t.Helper()
		for i := 0; i < len(nameContent); i += 2 {
			path := filepath.Join(root, nameContent[i])
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(nameContent[i+1]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
