package run

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// noteCache begins the names of files that say what a directory of cache mounts is, and how often it was used: a line of
// JSON, and then a byte for each use, which concurrent steps append without waiting for each other. They are beside the
// directories, since what is in those belongs to steps.
const noteCache = "about-"

// maxNote bounds the line, in bytes: a command may be a script.
const maxNote = 4 << 10

// describeCache says what a cache mount is of, as BuildKit does.
func describeCache(step *solver.Step, x *op.ExecMount) string {
	s := "cached mount " + x.Dest
	if step.Vertex != nil {
		s += " from exec " + step.Vertex.Op().String()
	}
	if len(s) > maxNote {
		s = strings.ToValidUTF8(s[:maxNote], "") + "…"
	}
	if x.Cache.ID != x.Dest {
		s += fmt.Sprintf(" with id %q", x.Cache.ID)
	}
	return s
}

// noteCacheUse counts a use of the directory of that name, whose first user describes it. A note is for people only: one that
// cannot be written fails no step.
func (r *Runner) noteCacheUse(name, description string) {
	note := filepath.Join(r.deps.CacheDir, noteCache+name)
	f, err := os.OpenFile(note, os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if r.writeNote(note, description) != nil {
			return
		}
		f, err = os.OpenFile(note, os.O_WRONLY|os.O_APPEND, 0)
	}
	if err != nil {
		return
	}
	_, _ = f.WriteString(".")
	_ = f.Close()
}

// writeNote makes a note, unless there is one.
func (r *Runner) writeNote(note, description string) error {
	line, err := json.Marshal(description)
	if err != nil {
		return err
	}
	tmp := filepath.Join(r.deps.CacheDir, freshCache+newName()) // which sweepCaches removes
	defer func() { _ = os.Remove(tmp) }()
	if err := os.WriteFile(tmp, append(line, '\n'), 0o600); err != nil {
		return err
	}
	if err := os.Link(tmp, note); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// readNote adds what there is of a note to m.
func (r *Runner) readNote(m *CacheMount) {
	f, err := os.Open(filepath.Join(r.deps.CacheDir, noteCache+m.Name))
	if err != nil {
		return
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadBytes('\n')
	info, statErr := f.Stat()
	if err != nil || statErr != nil || json.Unmarshal(line, &m.Description) != nil {
		return
	}
	m.Uses = int(info.Size()) - len(line)
	m.add(info)
}

func (r *Runner) removeNote(name string) {
	_ = os.Remove(filepath.Join(r.deps.CacheDir, noteCache+name))
}
