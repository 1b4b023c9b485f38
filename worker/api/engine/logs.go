package engine

import (
	"context"
	"io"
	"strconv"

	"github.com/moby/moby/api/types"

	"github.com/boxbuild/boxbuild/worker"
)

// logs writes what a container has said.
func (s *Server) logs(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	opt, err := logsOptions(c)
	if err != nil {
		return err
	}
	info, err := cs.Inspect(ctx, c.vars[0], false)
	if err != nil {
		return err
	}
	kind, framed := types.MediaTypeRawStream, !info.Config.Tty
	if framed && !c.before(42) {
		kind = types.MediaTypeMultiplexedStream
	}
	c.w.Header().Set("Content-Type", kind)
	// Who follows is told at once that it has begun, unless there may be nothing to read.
	if log := info.HostConfig; opt.Follow && log != nil && readable[log.LogConfig.Type] {
		c.w.Flush()
	}
	var out io.Writer = c.w
	if opt.Follow {
		out = flushing{c.w}
	}
	err = cs.Logs(ctx, info.ID, opt, out)
	if err == nil || !c.w.begun || ctx.Err() != nil {
		if !c.w.begun && err == nil {
			c.w.Flush()
		}
		return err
	}
	text := []byte("Error grabbing logs: " + err.Error() + "\n")
	if framed {
		text = frame(stderrFrame, text)
	}
	_, _ = c.w.Write(text) // the client may be gone
	return nil
}

// readable are the log drivers whose logs can be read; "" is the default one.
var readable = map[string]bool{"": true, "json-file": true, "local": true}

func logsOptions(c *call) (worker.LogsOptions, error) {
	opt := worker.LogsOptions{
		Stdout: c.is("stdout"), Stderr: c.is("stderr"), Follow: c.is("follow"), Timestamps: c.is("timestamps"), Details: c.is("details"),
		Tail: -1,
	}
	if !opt.Stdout && !opt.Stderr {
		return opt, worker.Invalidf("Bad parameters: you must choose at least one stream")
	}
	// As with docker, what is no number is all.
	if n, err := strconv.Atoi(c.get("tail")); err == nil && n >= 0 {
		opt.Tail = n
	}
	var err error
	if opt.Since, err = c.instant("since"); err != nil {
		return opt, err
	}
	if c.get("until") != "0" {
		opt.Until, err = c.instant("until")
	}
	return opt, err
}
