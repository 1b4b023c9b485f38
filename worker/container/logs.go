package container

import (
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/container/logread"
)

// logPath is where the keeper writes the log.
func (m *Manager) logPath(rec *record) string {
	if rec.HostConfig.LogConfig.Type == logLocal {
		return m.dir(rec.ID) + "/container.log"
	}
	return m.dir(rec.ID) + "/" + rec.ID + "-json.log"
}

// Logs implements worker.Containers.
func (m *Manager) Logs(ctx context.Context, ref string, opt worker.LogsOptions, w io.Writer) error {
	if !opt.Stdout && !opt.Stderr {
		return worker.Invalidf("you must choose at least one stream")
	}
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	rec := c.get()
	if rec.HostConfig.LogConfig.Type == logNone {
		return worker.Invalidf("configured logging driver does not support reading")
	}
	if rec.Status.Phase == Dead || rec.Status.Phase == Removing {
		return worker.Conflictf("can not get logs from container which is dead or marked for removal")
	}
	read := logread.Options{
		Path: m.logPath(rec), Driver: rec.HostConfig.LogConfig.Type, Since: opt.Since, Until: opt.Until, Tail: opt.Tail,
	}
	if opt.Follow {
		c.mu.Lock()
		if r := c.run; r != nil && c.rec.Status.Up() {
			read.Follow, read.Ended = true, r.done
		}
		c.mu.Unlock()
	}
	fw := &frames{w: w, opt: opt, tty: rec.Config.Tty}
	return logread.Read(ctx, read, fw.write)
}

// said is what a container has said so far. It ends when the daemon goes, also if it is not read.
func (m *Manager) said(c *ctr, s executor.Streams) io.ReadCloser {
	r, w := io.Pipe()
	forget := context.AfterFunc(m.life, func() { w.CloseWithError(errClosing) })
	m.goOn(func() {
		defer forget()
		opt := worker.LogsOptions{Stdout: s.Stdout, Stderr: s.Stderr, Tail: -1}
		err := m.Logs(m.life, c.id, opt, w)
		w.CloseWithError(err)
	})
	return r
}

// frames writes entries as a client of the Engine API reads them.
type frames struct {
	w   io.Writer
	opt worker.LogsOptions
	tty bool
	buf []byte
}

// logTime is docker's format: with nine digits, so that lines can be sorted as text.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func (f *frames) write(m *logread.Message) error {
	stream := byte(1)
	if m.Stream == "stderr" {
		stream = 2
	}
	if stream == 1 && !f.opt.Stdout || stream == 2 && !f.opt.Stderr {
		return nil
	}
	b := append(f.buf[:0], stream, 0, 0, 0, 0, 0, 0, 0)
	if f.opt.Timestamps {
		b = append(m.At.UTC().AppendFormat(b, logTime), ' ')
	}
	if f.opt.Details {
		b = append(appendAttrs(b, m.Attrs), ' ')
	}
	b = append(b, m.Text...)
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-8))
	f.buf = b
	if f.tty {
		b = b[8:]
	}
	_, err := f.w.Write(b)
	return err
}

func appendAttrs(b []byte, attrs map[string]string) []byte {
	for i, name := range slices.Sorted(maps.Keys(attrs)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, url.QueryEscape(name)...)
		b = append(b, '=')
		b = append(b, url.QueryEscape(attrs[name])...)
	}
	return b
}

// zeroOr formats a time as docker shows it.
func zeroOr(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
