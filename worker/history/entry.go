package history

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// The files of a build.
const (
	recordFile = "record.json"
	eventsFile = "events"
)

// An entry is a build that the Store knows.
type entry struct {
	dir string

	rec  *Record   // guarded by Store.mu; replaced, never changed
	rank uint64    // guarded by Store.mu; of the last change, in the order of all changes
	live *recorder // guarded by Store.mu; nil once the build has ended

	writing chan struct{} // has a token while somebody writes to dir
	gone    bool          // the directory is not e's any more; guarded by the token
	ready   chan struct{} // closed when live has a log
}

func newEntry(dir string, rec *Record) *entry {
	return &entry{dir: dir, rec: rec, writing: make(chan struct{}, 1), ready: make(chan struct{})}
}

// plainID is what IDs look like that are names of directories as they are.
var plainID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$`)

// dirName returns the name of the directory of a build. IDs are the clients' to choose.
func dirName(id string) string {
	if plainID.MatchString(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "~" + hex.EncodeToString(sum[:])
}

// save writes the record to the disk as it is now. Of saves that overlap the last one has the last state.
func (s *Store) save(e *entry) error {
	e.writing <- struct{}{}
	defer func() { <-e.writing }()
	if e.gone {
		return notFound(e.rec.ID)
	}
	s.mu.Lock()
	rec := e.rec
	s.mu.Unlock()
	return writeRecord(e.dir, rec)
}

func writeRecord(dir string, rec *Record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("recording build %s: %w", rec.ID, err)
	}
	name := filepath.Join(dir, recordFile)
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return fmt.Errorf("recording build %s: %w", rec.ID, err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("recording build %s: %w", rec.ID, err)
	}
	return nil
}

func readRecord(dir string) (*Record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, err
	}
	rec := &Record{}
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(rec); err != nil {
		return nil, fmt.Errorf("reading %s: %w", recordFile, err)
	}
	if rec.ID == "" || dirName(rec.ID) != filepath.Base(dir) {
		return nil, fmt.Errorf("reading %s: it is of build %q", recordFile, rec.ID)
	}
	return rec, nil
}

// load reads what an earlier process has left.
func (s *Store) load() error {
	if err := os.MkdirAll(s.opt.Dir, 0o700); err != nil {
		return err
	}
	dirs, err := os.ReadDir(s.opt.Dir)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		dir := filepath.Join(s.opt.Dir, d.Name())
		rec, err := readRecord(dir)
		if err != nil || rec.Internal {
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.opt.Log.Warn("a record of a build cannot be read, and is dropped", "dir", dir, "error", err)
			}
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		e := newEntry(dir, rec)
		if rec.Status == Running {
			if err := s.bury(e); err != nil {
				return err
			}
		}
		close(e.ready)
		s.entries[rec.ID] = e
	}
	return nil
}

// bury ends the record of a build that ran when the daemon ended: at the time of its last event, as the log has it.
func (s *Store) bury(e *entry) error {
	rec := e.rec.clone()
	rec.Status, rec.Error = Failed, s.remember(ErrDaemonEnded)
	rec.Ended = rec.Created
	count := counter{}
	err := scan(filepath.Join(e.dir, eventsFile), func(h head, body []byte) error {
		rec.Ended = h.time
		count.entry(h)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rec.Steps = count.steps
	e.rec = rec
	return writeRecord(e.dir, rec)
}
