// Package logread reads the logs of containers, in the formats of Docker's log drivers json-file and local, while or after
// their keepers write them.
//
// A log is some files: path is being written to, path.1 is the one before, and so on, compressed ones with ".gz". They are
// read from the oldest on. While a log is followed the kernel tells of changes (inotify), and a file that has been rotated
// is read to its end before the next one. A last line that is not whole yet is left until it is; one that cannot be
// understood, as a power cut may leave it, is skipped.
//
// Read owns no goroutine when it returns.
package logread

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"
)

// A Message is an entry of a log: a line with its newline, or a part of one without.
type Message struct {
	Stream string // "stdout" or "stderr"
	Text   []byte
	At     time.Time
	Attrs  map[string]string
}

// Options say what to read.
type Options struct {
	Path   string
	Driver string // "json-file" or "local"
	// Since and Until bound the times, both included; zero means not at all.
	Since, Until time.Time
	// Tail is how many of the last entries there are at the beginning are read; negative means all.
	Tail int
	// Follow has Read go on with what is written later, until Ended is closed and all has been read.
	Follow bool
	Ended  <-chan struct{}
}

// A format is how entries are encoded.
type format interface {
	// next reads an entry. errPart means that it is not whole, and has not been read.
	next(r *bufio.Reader) (*Message, int, error)
	// back returns where the last n entries of a file of that size begin, and how many there are.
	back(f io.ReaderAt, size int64, n int) (start int64, found int, err error)
}

// errPart is the end of a file within an entry.
var errPart = errors.New("part of an entry")

// errBad is an entry that cannot be understood.
var errBad = errors.New("damaged entry")

// Read calls fn with the entries of a log, until there are no more, or ctx is done, or fn fails. A log that is not there is
// empty.
func Read(ctx context.Context, opt Options, fn func(*Message) error) error {
	r := &reader{opt: opt, fn: fn, format: jsonFile{}}
	switch opt.Driver {
	case "json-file":
	case "local":
		r.format = local{}
	default:
		return fmt.Errorf("reading a log of driver %q: unknown", opt.Driver)
	}
	var watch *watcher
	if opt.Follow {
		var err error
		if watch, err = newWatcher(opt.Path); err != nil {
			return fmt.Errorf("following a log: %w", err)
		}
		defer watch.close()
	}
	err := r.read(ctx, watch)
	if errors.Is(err, errUntil) {
		return nil
	}
	return err
}

// errUntil says that the times have gone beyond Options.Until.
var errUntil = errors.New("late enough")

// A reader is one call of Read.
type reader struct {
	opt    Options
	fn     func(*Message) error
	format format
	last   time.Time // of the last entry that was read
}

// A source is a file of the log.
type source struct {
	f    *os.File
	gzip bool
	skip int64 // where to begin
	drop int   // how many entries to leave out, of a compressed one
}

func (r *reader) read(ctx context.Context, watch *watcher) error {
	sources, err := r.open()
	defer func() { closeAll(sources) }()
	if err != nil {
		return err
	}
	if r.opt.Tail >= 0 {
		if err := r.tail(sources); err != nil {
			return err
		}
	}
	var at int64 // where the file that is written to goes on
	for i, s := range sources {
		n, err := r.file(ctx, s)
		if err != nil {
			return err
		}
		if i == len(sources)-1 {
			at = n
		}
	}
	if watch == nil {
		return nil
	}
	f := &follower{reader: r, watch: watch, at: at}
	if n := len(sources); n > 0 && !sources[n-1].gzip {
		f.file = sources[n-1].f
		sources = sources[:n-1]
	}
	defer f.close()
	return f.run(ctx)
}

// openTries bounds how often the files are opened anew because they were rotated meanwhile.
const openTries = 100

// open opens the files, the oldest first.
func (r *reader) open() (sources []*source, err error) {
	for try := 1; ; try++ {
		if sources, err = r.openOnce(); err != nil || len(sources) == 0 {
			return sources, err
		}
		now, err := os.Open(r.opt.Path)
		if err != nil {
			return sources, nil //nolint:nilerr // there is a new one every moment
		}
		still := same(now, sources[len(sources)-1].f)
		now.Close()
		if still || try == openTries {
			return sources, nil
		}
		closeAll(sources)
	}
}

func closeAll(sources []*source) {
	for _, s := range sources {
		s.f.Close()
	}
}

// openOnce opens what is there. The newest comes first, so that one which is rotated meanwhile is met twice and not missed.
func (r *reader) openOnce() (sources []*source, err error) {
	for i := 0; ; i++ {
		name := r.opt.Path
		if i > 0 {
			name += "." + strconv.Itoa(i)
		}
		s := new(source)
		s.f, err = os.Open(name)
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			s.gzip = true
			s.f, err = os.Open(name + ".gz")
		}
		switch {
		case errors.Is(err, fs.ErrNotExist) && i == 0:
			continue // between a rename and the creation of the next
		case errors.Is(err, fs.ErrNotExist):
			return sources, nil
		case err != nil:
			return sources, fmt.Errorf("reading a log: %w", err)
		}
		if len(sources) > 0 && same(sources[0].f, s.f) {
			s.f.Close()
			continue
		}
		sources = append([]*source{s}, sources...)
	}
}

func same(a, b *os.File) bool {
	x, err := a.Stat()
	y, err2 := b.Stat()
	return err == nil && err2 == nil && os.SameFile(x, y)
}

// tail sets where to begin for the last entries.
func (r *reader) tail(sources []*source) error {
	left := r.opt.Tail
	for i := len(sources) - 1; i >= 0; i-- {
		s := sources[i]
		if s.gzip {
			n, err := r.count(s)
			if err != nil {
				return err
			}
			s.drop = max(0, n-left)
			left = max(0, left-n)
			continue
		}
		fi, err := s.f.Stat()
		if err != nil {
			return err
		}
		start, found, err := r.format.back(s.f, fi.Size(), left)
		if err != nil {
			return fmt.Errorf("reading a log: %w", err)
		}
		s.skip = start
		left -= found
	}
	return nil
}

// count counts the entries of a compressed file.
func (r *reader) count(s *source) (n int, err error) {
	in, err := s.reader()
	if err != nil {
		return 0, err
	}
	for {
		switch _, _, err := r.format.next(in); {
		case err == nil:
			n++
		case !errors.Is(err, errBad):
			return n, nil // the end, or damage
		}
	}
}

// reader returns what is in the file from the beginning, or from skip on.
func (s *source) reader() (*bufio.Reader, error) {
	if _, err := s.f.Seek(s.skip, io.SeekStart); err != nil {
		return nil, err
	}
	if !s.gzip {
		return bufio.NewReaderSize(s.f, 64<<10), nil
	}
	z, err := gzip.NewReader(bufio.NewReader(s.f))
	if err != nil {
		return nil, fmt.Errorf("reading a compressed log: %w", err)
	}
	return bufio.NewReaderSize(z, 64<<10), nil
}

// file reads what a file has, and returns how far that is.
func (r *reader) file(ctx context.Context, s *source) (at int64, err error) {
	in, err := s.reader()
	if err != nil {
		return 0, err
	}
	at = s.skip
	for {
		if ctx.Err() != nil {
			return at, context.Cause(ctx)
		}
		m, n, err := r.format.next(in)
		switch {
		case errors.Is(err, errBad):
			at += int64(n)
			continue
		case errors.Is(err, io.EOF), errors.Is(err, errPart), s.gzip && err != nil:
			return at, nil
		case err != nil:
			return at, fmt.Errorf("reading a log: %w", err)
		}
		at += int64(n)
		r.last = m.At
		if s.drop > 0 {
			s.drop--
			continue
		}
		if err := r.give(m); err != nil {
			return at, err
		}
	}
}

// give hands an entry on if its time is right.
func (r *reader) give(m *Message) error {
	if !r.opt.Since.IsZero() && m.At.Before(r.opt.Since) {
		return nil
	}
	if !r.opt.Until.IsZero() && m.At.After(r.opt.Until) {
		return errUntil
	}
	return r.fn(m)
}
