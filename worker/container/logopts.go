package container

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// Log drivers.
const (
	logJSON  = "json-file"
	logLocal = "local"
	logNone  = "none"
)

// logBuffer is the size of the buffer of mode non-blocking, in bytes, if none is asked for.
const logBuffer = 1e6

// logKeys are the options of each driver.
var logKeys = map[string][]string{
	logJSON:  {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"},
	logLocal: {"max-size", "max-file", "compress"},
	logNone:  nil,
}

// commonLogKeys are the options of all drivers. Those of docker's cache, which makes logs readable that a driver sends
// elsewhere, are accepted and mean nothing for drivers whose logs are files.
var commonLogKeys = []string{"mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}

// checkLog completes and checks how a container's log is written. Docker finds some of it only when it starts the container;
// the words are the same.
func (m *Manager) checkLog(c *container.LogConfig) error {
	if c.Type == "" {
		c.Type = m.deps.LogDriver
		c.Config = under(c.Config, m.deps.LogOpts)
	}
	if c.Config == nil {
		c.Config = map[string]string{}
	}
	if c.Type == logNone {
		return nil
	}
	if err := checkLogMode(c.Config); err != nil {
		return err
	}
	keys, ok := logKeys[c.Type]
	if !ok {
		return worker.Invalidf("logger: no log driver named '%s' is registered", c.Type)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Config)) {
		switch {
		case slices.Contains(commonLogKeys, key), slices.Contains(keys, key):
		case c.Type == logLocal:
			return worker.Invalidf("unknown log opt '%s' for log driver %s", key, c.Type)
		default:
			return worker.Invalidf("unknown log opt '%s' for %s log driver", key, c.Type)
		}
	}
	if _, err := logLimits(c); err != nil {
		return err
	}
	return checkLogAttrs(c.Config)
}

// checkLogMode checks what is the same for all drivers.
func checkLogMode(opts map[string]string) error {
	mode := container.LogMode(opts["mode"])
	switch mode {
	case container.LogModeBlocking, container.LogModeNonBlock, container.LogModeUnset:
	default:
		return worker.Invalidf("logger: logging mode not supported: %s", mode)
	}
	if size, ok := opts["max-buffer-size"]; ok {
		if mode != container.LogModeNonBlock {
			return worker.Invalidf("logger: max-buffer-size option is only supported with 'mode=%s'", container.LogModeNonBlock)
		}
		if _, err := units.RAMInBytes(size); err != nil {
			return worker.Invalidf("error parsing option max-buffer-size: %v", err)
		}
	}
	if v := opts["cache-disabled"]; v != "" {
		if _, err := strconv.ParseBool(v); err != nil {
			return worker.Invalidf("invalid value for option cache-disabled: %s", v)
		}
	}
	return nil
}

// logLimits reads the options that bound a log.
func logLimits(c *container.LogConfig) (l executor.Log, err error) {
	l.Driver, l.MaxFiles = c.Type, 1
	local := c.Type == logLocal
	if local { // its defaults
		l.MaxSize, l.MaxFiles, l.Compress = 20<<20, 5, true
	}
	if v, ok := c.Config["max-size"]; ok && v != "-1" {
		l.MaxSize, err = units.FromHumanSize(v)
		switch {
		case err != nil && local:
			return l, worker.Invalidf("invalid value for max-size: %s: %v", v, err)
		case err != nil:
			return l, worker.Invalidf("%v", err)
		case l.MaxSize <= 0:
			return l, worker.Invalidf("max-size must be a positive number")
		}
	}
	if v, ok := c.Config["max-file"]; ok {
		l.MaxFiles, err = strconv.Atoi(v)
		switch {
		case err != nil && local:
			return l, worker.Invalidf("invalid value for max-file: %s: %v", v, err)
		case err != nil:
			return l, worker.Invalidf("%v", err)
		case l.MaxFiles < 1:
			return l, worker.Invalidf("max-file cannot be less than 1")
		}
	}
	if v, ok := c.Config["compress"]; ok {
		l.Compress, err = strconv.ParseBool(v)
		switch {
		case err != nil && local:
			return l, worker.Invalidf("error reading compress log option: %v", err)
		case err != nil:
			return l, worker.Invalidf("%v", err)
		}
	}
	switch {
	case local && l.Compress && l.MaxFiles == 1:
		return l, worker.Invalidf("compression cannot be enabled when max file count is 1")
	case !local && l.Compress && (l.MaxFiles == 1 || l.MaxSize == 0):
		return l, worker.Invalidf("compress cannot be true when max-file is less than 2 or max-size is not set")
	}
	if container.LogMode(c.Config["mode"]) == container.LogModeNonBlock {
		l.Buffer = logBuffer
		if v, ok := c.Config["max-buffer-size"]; ok {
			n, err := units.RAMInBytes(v)
			if err != nil {
				return l, worker.Invalidf("error parsing option max-buffer-size: %v", err)
			}
			l.Buffer = max(n, 1)
		}
	}
	return l, nil
}

// checkLogAttrs checks what names the attributes of lines.
func checkLogAttrs(opts map[string]string) error {
	for _, key := range []string{"labels-regex", "env-regex"} {
		if _, err := regexp.Compile(opts[key]); err != nil {
			return worker.Invalidf("%v", err)
		}
	}
	if _, err := logTag(opts["tag"], new(logInfo)); err != nil {
		return worker.Invalidf("%v", err)
	}
	return nil
}

// logOptions is how the keeper writes the log.
func (m *Manager) logOptions(rec *record) executor.Log {
	l, err := logLimits(&rec.HostConfig.LogConfig)
	if err != nil || l.Driver == logNone {
		return executor.Log{Driver: logNone}
	}
	l.Path, l.Attrs = m.logPath(rec), m.logAttrs(rec)
	return l
}

// logAttrs are the labels and variables that each line is to have.
func (m *Manager) logAttrs(rec *record) map[string]string {
	out := make(map[string]string)
	opts := rec.HostConfig.LogConfig.Config
	env := make(map[string]string, len(rec.Config.Env))
	for _, kv := range rec.Config.Env {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
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
		text, err := logTag(tag, newLogInfo(rec))
		m.warn("making the tag of the log of "+rec.ID, err)
		if text != "" {
			out["tag"] = text
		}
	}
	return out
}
