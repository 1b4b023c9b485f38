package container

import (
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/container/logread"
)

// Log drivers.
const (
	logJSON  = "json-file"
	logLocal = "local"
	logNone  = "none"
)

// logPath is where the keeper writes the log.
func (m *Manager) logPath(rec *record) string {
	if rec.HostConfig.LogConfig.Type == logLocal {
		return m.dir(rec.ID) + "/container.log"
	}
	return m.dir(rec.ID) + "/" + rec.ID + "-json.log"
}

// logKeys are the options of each driver.
var logKeys = map[string][]string{
	logJSON:  {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size"},
	logLocal: {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size"},
	logNone:  nil,
}

// checkLog completes and checks how a container's log is written.
func (m *Manager) checkLog(c *container.LogConfig) error {
	if c.Type == "" {
		c.Type = m.deps.LogDriver
		c.Config = under(c.Config, m.deps.LogOpts)
	}
	if c.Config == nil {
		c.Config = map[string]string{}
	}
	keys, ok := logKeys[c.Type]
	if !ok {
		return worker.Invalidf("logger: no log driver named '%s' is registered", c.Type)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Config)) {
		if c.Type != logNone && !slices.Contains(keys, key) {
			return worker.Invalidf("unknown log opt '%s' for %s log driver", key, c.Type)
		}
	}
	_, err := logLimits(c)
	return err
}

// logLimits reads the options that bound a log.
func logLimits(c *container.LogConfig) (l executor.Log, err error) {
	l.Driver, l.MaxFiles = c.Type, 1
	if c.Type == logLocal { // its defaults
		l.MaxSize, l.MaxFiles, l.Compress = 20<<20, 5, true
	}
	if v, ok := c.Config["max-size"]; ok && v != "-1" {
		if l.MaxSize, err = units.FromHumanSize(v); err != nil || l.MaxSize <= 0 {
			return l, worker.Invalidf("invalid value for max-size: %s", v)
		}
	}
	if v, ok := c.Config["max-file"]; ok {
		if l.MaxFiles, err = strconv.Atoi(v); err != nil || l.MaxFiles < 1 {
			return l, worker.Invalidf("max-file cannot be less than 1")
		}
	}
	if v, ok := c.Config["compress"]; ok {
		if l.Compress, err = strconv.ParseBool(v); err != nil {
			return l, worker.Invalidf("invalid value for compress: %s", v)
		}
		if l.Compress && c.Type == logJSON && (l.MaxFiles == 1 || l.MaxSize == 0) {
			return l, worker.Invalidf("compress cannot be true when max-file is less than 2 or max-size is not set")
		}
	}
	if mode := c.Config["mode"]; mode != "" && mode != string(container.LogModeBlocking) && mode != string(container.LogModeNonBlock) {
		return l, worker.Invalidf("logger: logging mode not supported: %s", mode)
	}
	for _, key := range []string{"labels-regex", "env-regex"} {
		if v := c.Config[key]; v != "" {
			if _, err := regexp.Compile(v); err != nil {
				return l, worker.Invalidf("invalid value for %s: %v", key, err)
			}
		}
	}
	return l, nil
}

// logOptions is how the keeper writes the log.
func (m *Manager) logOptions(rec *record) executor.Log {
	l, err := logLimits(&rec.HostConfig.LogConfig)
	if err != nil || l.Driver == logNone {
		return executor.Log{Driver: logNone}
	}
	l.Path, l.Attrs = m.logPath(rec), logAttrs(rec)
	return l
}

// logAttrs are the labels and variables that each line is to have.
func logAttrs(rec *record) map[string]string {
	out := make(map[string]string)
	opts := rec.HostConfig.LogConfig.Config
	env := make(map[string]string, len(rec.Config.Env))
	for _, kv := range rec.Config.Env {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	for key, of := range map[string]map[string]string{"labels": rec.Config.Labels, "env": env} {
		for _, name := range strings.Split(opts[key], ",") {
			if v, ok := of[name]; ok && name != "" {
				out[name] = v
			}
		}
		expr, err := regexp.Compile(opts[key+"-regex"])
		if err != nil || opts[key+"-regex"] == "" {
			continue
		}
		for name, v := range of {
			if expr.MatchString(name) {
				out[name] = v
			}
		}
	}
	if tag := opts["tag"]; tag != "" {
		out["tag"] = logTag(tag, rec)
	}
	return out
}

// logTag fills in docker's template words.
func logTag(tag string, rec *record) string {
	path, args := rec.command()
	return strings.NewReplacer(
		"{{.ID}}", short(rec.ID), "{{.FullID}}", rec.ID, "{{.Name}}", rec.Name,
		"{{.ImageID}}", short(rec.Image.Encoded()), "{{.ImageFullID}}", string(rec.Image), "{{.ImageName}}", rec.Config.Image,
		"{{.Command}}", strings.Join(append([]string{path}, args...), " "), "{{.DaemonName}}", "boxbuild",
	).Replace(tag)
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

// said is what a container has said so far.
func (m *Manager) said(c *ctr, s executor.Streams) io.ReadCloser {
	r, w := io.Pipe()
	m.goOn(func() {
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
