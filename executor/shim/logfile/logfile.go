// Package logfile writes the log of a container, in the formats of Docker's log drivers json-file and local.
//
// A Writer cuts what a process says into lines, each with the time of its first byte. What has no newline within 16 KiB is
// cut there, as by Docker, so that a reader who puts the parts together has every byte. Lines are written at once, with one
// write(2) for all that came at once; rotation is looked at for each line.
//
// Files are in one directory: name is being written, name.1 is the one before, and so on; with compression those are
// name.1.gz, …. A file is compressed in the background, under the name name.1.gz.tmp until it is whole; what a killed
// keeper left of that is removed by the next.
//
// A Writer is used by one goroutine; it has another while it compresses, and one more if its log has a buffer, for the
// disk. Then what is written waits in a ring, whose mutex guards it and is held for no I/O.
package logfile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/boxbuild/boxbuild/executor"
)

// MaxLine is the most bytes that one entry of a log has.
const MaxLine = 16 << 10

// A Writer writes a log.
type Writer struct {
	dir     *os.Root
	name    string
	opts    executor.Log
	encode  func(b []byte, e *entry) []byte
	file    *os.File
	size    int64
	out     []byte // encoded, and not yet written
	parts   [3]part
	pressed chan struct{} // closed when the compression under way has ended; nil without one
	now     func() time.Time
	stamp   []byte    // stamped, as text
	stamped time.Time // all lines of one write have the same time
	err     error     // the first that could not be told otherwise
	ring    *ring     // between cutting and encoding; nil if the process waits for the disk
}

// A part is the beginning of a line, of a stream.
type part struct {
	text   []byte
	at     time.Time // of its first byte
	number int       // of the parts of this line that were written before
	id     string    // of the line, if it has more than one part
}

// An entry is what one line of a log file, or one message of the local driver, holds.
type entry struct {
	stream  string
	text    []byte
	at      time.Time
	stamp   []byte // at, in RFC 3339; set by put
	partial bool   // no newline came behind the text
	number  int    // of the part, from 0
	id      string
}

// Open opens the log name in dir, and goes on with what is there. The Writer takes dir over. A nil Writer, without an
// error, stands for the driver none.
func Open(dir *os.Root, name string, opts executor.Log) (*Writer, error) {
	w := &Writer{dir: dir, name: name, opts: opts, now: time.Now}
	switch opts.Driver {
	case "json-file":
		attrs, err := encodeAttrs(opts.Attrs)
		if err != nil {
			return nil, err
		}
		w.encode = func(b []byte, e *entry) []byte { return appendJSON(b, e, attrs) }
	case "local":
		w.encode = appendLocal
	case "none", "":
		return nil, dir.Close()
	default:
		return nil, fmt.Errorf("log driver %q: unknown to keepers", opts.Driver)
	}
	_ = dir.Remove(name + ".1.gz.tmp")
	if err := w.open(os.O_APPEND); err != nil {
		return nil, err
	}
	if opts.Buffer > 0 {
		w.ring = newRing(opts.Buffer, func(list []entry) {
			for i := range list {
				w.put(&list[i])
			}
			w.flush()
		})
	}
	return w, nil
}

func (w *Writer) open(flag int) error {
	f, err := w.dir.OpenFile(w.name, os.O_WRONLY|os.O_CREATE|flag, 0o640)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("opening the log: %w", err)
	}
	w.file, w.size = f, fi.Size()
	return nil
}

var streams = [3]string{1: "stdout", 2: "stderr"}

// Write takes what the process said on stream 1 or 2. A log that can't be written to, as when the disk is full, loses it:
// the process is not held up. With a buffer it is not held up by a slow disk either: a line that finds the buffer full is lost.
func (w *Writer) Write(stream int, p []byte) {
	now := w.now()
	s := &w.parts[stream]
	for len(p) > 0 {
		if len(s.text) == 0 && s.number == 0 {
			s.at = now
		}
		room := MaxLine - len(s.text)
		i := bytes.IndexByte(p[:min(len(p), room)], '\n')
		switch {
		case i >= 0 && len(s.text) == 0:
			w.line(stream, p[:i], false)
			p = p[i+1:]
		case i >= 0:
			s.text = append(s.text, p[:i]...)
			w.line(stream, s.text, false)
			p = p[i+1:]
		case len(p) >= room:
			s.text = append(s.text, p[:room]...)
			w.line(stream, s.text, true)
			p = p[room:]
		default:
			s.text = append(s.text, p...)
			p = nil
		}
	}
	if w.ring == nil {
		w.flush()
	}
}

// line makes an entry of a stream's text.
func (w *Writer) line(stream int, text []byte, partial bool) {
	s := &w.parts[stream]
	if partial && s.number == 0 {
		s.id = strconv.FormatInt(s.at.UnixNano(), 36)
	}
	e := entry{stream: streams[stream], text: text, at: s.at, partial: partial, number: s.number, id: s.id}
	if w.ring != nil {
		w.ring.add(&e)
	} else {
		w.put(&e)
	}
	s.text = s.text[:0]
	if partial {
		s.number++
	} else {
		s.number, s.id = 0, ""
	}
}

// put adds an entry to what is to be written.
func (w *Writer) put(e *entry) {
	if e.at != w.stamped {
		w.stamped, w.stamp = e.at, e.at.UTC().AppendFormat(w.stamp[:0], time.RFC3339Nano)
	}
	e.stamp = w.stamp
	before := len(w.out)
	w.out = w.encode(w.out, e)
	if w.opts.MaxSize > 0 && w.size+int64(before) >= w.opts.MaxSize {
		// As in Docker, a file is full when it has reached the size: the line that makes it so is still in it.
		last := bytes.Clone(w.out[before:])
		w.out = w.out[:before]
		w.flush()
		if err := w.rotate(); err != nil {
			w.note(err)
			w.size = 0 // the next try is as far away: each pushes an old file out
		}
		w.out = append(w.out, last...)
	}
}

func (w *Writer) flush() {
	if len(w.out) == 0 {
		return
	}
	n, err := w.file.Write(w.out)
	w.size += int64(n)
	w.note(err)
	w.out = w.out[:0]
	if cap(w.out) > 4*MaxLine {
		w.out = nil
	}
}

// note keeps the first error.
func (w *Writer) note(err error) {
	if w.err == nil {
		w.err = err
	}
}

// rotate starts a new file. If that can't be opened the old one goes on, under the name that it has got.
func (w *Writer) rotate() error {
	if w.opts.MaxFiles < 2 {
		if err := w.file.Truncate(0); err != nil {
			return fmt.Errorf("truncating the log: %w", err)
		}
		w.size = 0 // it is written to with O_APPEND
		return nil
	}
	if w.pressed != nil {
		<-w.pressed
		w.pressed = nil
	}
	for i := w.opts.MaxFiles - 1; i >= 1; i-- {
		for _, suffix := range []string{"", ".gz"} {
			from := w.old(i-1) + suffix
			if i == 1 {
				if suffix != "" {
					continue
				}
				from = w.name
			}
			err := w.dir.Rename(from, w.old(i)+suffix)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("rotating the log: %w", err)
			}
		}
	}
	full := w.file
	if err := w.open(os.O_APPEND); err != nil {
		return err
	}
	full.Close()
	if w.opts.Compress {
		w.pressed = make(chan struct{})
		go func() {
			defer close(w.pressed)
			_ = w.compress(w.old(1)) // what can't be compressed stays as it is
		}()
	}
	return nil
}

func (w *Writer) old(i int) string { return w.name + "." + strconv.Itoa(i) }

// compress replaces the file name by name.gz.
func (w *Writer) compress(name string) (err error) {
	in, err := w.dir.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	const tmp = ".gz.tmp"
	out, err := w.dir.OpenFile(name+tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	err = errors.Join(err, z.Close(), out.Close())
	if err != nil {
		return errors.Join(err, w.dir.Remove(name+tmp))
	}
	if err := w.dir.Rename(name+tmp, name+".gz"); err != nil {
		return err
	}
	return w.dir.Remove(name)
}

// Close writes what waits and what has come without a newline, waits for compression, and returns the first error that there was.
func (w *Writer) Close() error {
	for i := range w.parts {
		if len(w.parts[i].text) > 0 {
			w.line(i, w.parts[i].text, true)
		}
	}
	if w.ring != nil {
		w.ring.close()
	}
	w.flush()
	if w.pressed != nil {
		<-w.pressed
	}
	w.note(w.file.Close())
	w.note(w.dir.Close())
	return w.err
}
