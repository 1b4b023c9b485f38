package history

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The files of a build are in one directory with those of all others, since making a directory for each costs more than all
// else: the record, the log, and attachments. Their names are that of the build with one of these endings.
const (
	recordEnding = ".json"
	logEnding    = ".log"
	blobEnding   = ".blob" // after a dot and the digest
)

// How names of files begin that belong to no build: those that are being written, and those that are being removed.
const (
	newPrefix  = ".new-"
	gonePrefix = ".gone-"
)

// An entry is a build that the Store knows.
type entry struct {
	base string // of the paths of the build's files

	rec  *Record   // guarded by Store.mu; replaced, never changed
	rank uint64    // guarded by Store.mu; of the last change, in the order of all changes
	live *recorder // guarded by Store.mu; nil once the build has ended

	writing chan struct{} // has a token while somebody writes the record or attachments
	gone    bool          // the files are not e's any more; guarded by the token
}

func (s *Store) newEntry(rec *Record) *entry {
	return &entry{base: filepath.Join(s.opt.Dir, fileName(rec.ID)), rec: rec, writing: make(chan struct{}, 1)}
}

func (e *entry) recordPath() string { return e.base + recordEnding }
func (e *entry) logPath() string    { return e.base + logEnding }

func (e *entry) blobPath(d digest.Digest) string { return e.base + "." + d.Encoded() + blobEnding }

// plainID is what IDs look like that are names of files as they are.
var plainID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$`)

// fileName returns how the names of the files of a build begin. IDs are the clients' to choose.
func fileName(id string) string {
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
	s.mu.Lock()
	rec := e.rec
	s.mu.Unlock()
	if e.gone {
		return notFound(rec.ID)
	}
	return s.writeRecord(e, rec)
}

// writeRecord writes a record that has changed since it was put into the log. The first time it is written where it belongs,
// since what a crash cuts off is no record; later it replaces what is there.
func (s *Store) writeRecord(e *entry, rec *Record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("recording build %s: %w", rec.ID, err)
	}
	f, err := os.OpenFile(e.recordPath(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	again := errors.Is(err, fs.ErrExist)
	if again {
		f, err = os.CreateTemp(s.opt.Dir, newPrefix)
	}
	if err != nil {
		return fmt.Errorf("recording build %s: %w", rec.ID, err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil && again {
		err = os.Rename(f.Name(), e.recordPath())
	}
	if err != nil {
		return fmt.Errorf("recording build %s: %w", rec.ID, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// readRecord reads the record of the build with the log at path: as it was when the build began, when it ended, or when
// it was changed last. One of a build that ran is Running.
func readRecord(path string) (*Record, error) {
	base := strings.TrimSuffix(path, logEnding)
	rec := &Record{}
	end, err := lastRecord(path)
	if err != nil {
		return nil, err
	}
	changed := &Record{}
	b, err := os.ReadFile(base + recordEnding)
	if err == nil && json.Unmarshal(b, changed) == nil && changed.ID != "" {
		*rec = *changed
	}
	switch {
	case rec.ID != "" && rec.Status != Running:
	case end != nil:
		if err := json.Unmarshal(end, rec); err != nil {
			return nil, err
		}
		if changed.ID != "" {
			rec.Pinned, rec.Generation, rec.Attachments = changed.Pinned, changed.Generation, changed.Attachments
		}
	case rec.ID == "":
		err := scan(path, func(h head, body []byte) error {
			if h.kind != kindRecord {
				return errors.New("the log does not begin with a record")
			}
			return cmp.Or(json.Unmarshal(body, rec), errStop)
		})
		if err != nil && !errors.Is(err, errStop) {
			return nil, err
		}
	}
	if rec.ID == "" || fileName(rec.ID) != filepath.Base(base) {
		return nil, fmt.Errorf("it is the record of build %q", rec.ID)
	}
	return rec, nil
}

// errStop ends a scan.
var errStop = errors.New("that is enough")

// load reads what an earlier process has left, and removes what belongs to no build. What has no log was being removed.
func (s *Store) load() error {
	if err := os.MkdirAll(s.opt.Dir, 0o700); err != nil {
		return err
	}
	files, err := os.ReadDir(s.opt.Dir)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, f := range files {
		path := filepath.Join(s.opt.Dir, f.Name())
		if strings.HasPrefix(f.Name(), ".") || !strings.HasSuffix(f.Name(), logEnding) {
			continue
		}
		rec, err := readRecord(path)
		if err != nil {
			s.opt.Log.Warn("a record of a build cannot be read, and is dropped", "log", path, "error", err)
		}
		if err != nil || rec.Internal {
			continue
		}
		e := s.newEntry(rec)
		if rec.Status == Running {
			if err := s.bury(e); err != nil {
				return err
			}
		}
		s.entries[rec.ID] = e
		keep[e.logPath()], keep[e.recordPath()] = true, true
		for _, d := range e.rec.Attachments {
			keep[e.blobPath(d.Digest)] = true
		}
	}
	for _, f := range files {
		if path := filepath.Join(s.opt.Dir, f.Name()); !keep[path] {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// bury ends the record of a build that ran when the daemon ended: at the time of its last event, as the log has it.
func (s *Store) bury(e *entry) error {
	rec := e.rec.clone()
	rec.Status, rec.Error = Failed, s.remember(ErrDaemonEnded)
	rec.Ended = rec.Created
	count := counter{}
	err := scan(e.logPath(), func(h head, body []byte) error {
		if h.time.After(rec.Ended) {
			rec.Ended = h.time
		}
		count.entry(h)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rec.Steps = count.steps
	e.rec = rec
	return s.writeRecord(e, rec)
}
