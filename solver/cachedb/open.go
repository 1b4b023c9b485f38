package cachedb

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Open opens the cache in the file path, which need not exist. A file that is damaged is moved to path.damaged, with a
// warning in the log, and what can be read of it is kept. It is an error if another process has the file open.
func Open(path string) (*Cache, error) {
	if err := makeGood(path); err != nil {
		return nil, err
	}
	db, err := openFile(path, false)
	if isDamage(err) {
		if err := setAside(path, err); err != nil {
			return nil, err
		}
		db, err = openFile(path, false)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the cache: %w", err)
	}
	if err := sweepNotes(path); err != nil {
		db.Close()
		return nil, fmt.Errorf("opening the cache: %w", err)
	}
	c, err := New(db)
	if err == nil {
		err = writeNote(path, noteOpen)
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	c.onClose = func() error {
		if err := db.Close(); err != nil {
			return fmt.Errorf("closing the cache: %w", err)
		}
		return writeNote(path, noteClosed)
	}
	return c, nil
}

// makeGood makes good what the last owner of the file may have left broken.
func makeGood(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	boot, what := readNote(path)
	switch {
	case what == noteClosed, what == noteOpen && boot == bootID() && boot != "":
		return nil // it was closed, or its process was killed, which does no harm
	case what == noteChecking:
		return setAside(path, errors.New("the last attempt to check it did not end"))
	}
	slog.Info("the cache was not closed before the machine went down; checking it", "path", path)
	// Should what follows take the process down, as damage that is bad enough may, it is not tried again.
	if err := writeNote(path, noteChecking); err != nil {
		return err
	}
	return salvage(path)
}

// isDamage tells damage from being locked out, which says nothing about the file.
func isDamage(err error) bool {
	return err != nil && !errors.Is(err, berrors.ErrTimeout) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist)
}

// openFile opens a bbolt file. bbolt trusts what it reads: a damaged file makes it panic or reach beyond the end of the
// mapping, and both are errors here.
func openFile(path string, readOnly bool) (db *bbolt.DB, err error) {
	defer catch(&err)()
	return bbolt.Open(path, 0o600, &bbolt.Options{
		ReadOnly:     readOnly,
		Timeout:      time.Second,
		NoSync:       true, // see the package comment
		NoGrowSync:   true,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true,
	})
}

// catch turns a panic or a memory fault in the calling function into an error. It is used as defer catch(&err)().
func catch(err *error) func() {
	old := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(old)
		if v := recover(); v != nil {
			*err = fmt.Errorf("reading the file: %v", v)
		}
	}
}

// setAside moves the file out of the way.
func setAside(path string, why error) error {
	slog.Warn("the cache is damaged and is started anew", "path", path, "moved to", path+".damaged", "err", why)
	if err := os.Rename(path, path+".damaged"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("moving the damaged cache aside: %w", err)
	}
	return nil
}

// The note beside the file says who has it open: the boot of the machine, and one of these words.
const (
	noteOpen     = "open"
	noteClosed   = "closed"
	noteChecking = "checking"

	noteSuffix = ".note" // of its name, after that of the file
)

func readNote(path string) (boot, what string) {
	b, err := os.ReadFile(path + noteSuffix)
	if err != nil {
		return "", ""
	}
	boot, what, _ = strings.Cut(strings.TrimSpace(string(b)), " ")
	return boot, what
}

// sweepNotes removes notes that were not finished. Nobody else writes one while the file is open.
func sweepNotes(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(path)+noteSuffix+"-") {
			err = errors.Join(err, os.Remove(filepath.Join(filepath.Dir(path), e.Name())))
		}
	}
	return err
}

// writeNote replaces the note, and returns when it is on disk: it must not be older than what it speaks of.
func writeNote(path, what string) (err error) {
	name := path + noteSuffix
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("writing the cache's note: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s %s\n", bootID(), what)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("writing the cache's note: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// bootID names this boot of the machine. It is empty where that cannot be known.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
