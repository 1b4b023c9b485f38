package engine

import (
	"context"
	"io"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

func (s *Server) execCreate(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	req := new(container.ExecCreateRequest)
	if err := c.read(req); err != nil {
		return err
	}
	if len(req.Cmd) == 0 {
		return worker.Invalidf("No exec command specified")
	}
	if c.before(42) {
		req.ConsoleSize = nil
	}
	if _, err := parseKeys(req.DetachKeys); err != nil {
		return err
	}
	id, err := cs.ExecCreate(ctx, c.vars[0], req)
	if err != nil {
		return err
	}
	return c.send(http.StatusCreated, container.ExecCreateResponse{ID: id})
}

// execStart runs what execCreate has prepared, attached to its streams unless that is not wanted.
func (s *Server) execStart(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	var req container.ExecStartRequest
	if err := c.read(&req); err != nil {
		return err
	}
	if c.before(42) || !req.Tty {
		req.ConsoleSize = nil
	}
	info, err := cs.ExecInspect(ctx, c.vars[0])
	if err != nil {
		return err
	}
	if req.Detach {
		if _, err := cs.ExecStart(ctx, c.vars[0], &req, executor.Streams{}); err != nil {
			return err
		}
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	tty := info.ProcessConfig != nil && info.ProcessConfig.Tty
	streams := executor.Streams{Stdin: info.OpenStdin, Stdout: info.OpenStdout, Stderr: info.OpenStderr}
	att, startErr := cs.ExecStart(ctx, c.vars[0], &req, streams)
	conn, err := s.takeOver(c, !tty)
	if err != nil {
		if att != nil {
			_ = att.Close()
		}
		return err
	}
	if startErr != nil {
		// Clients do not look at the answer to a request that is taken over: they show what comes in the stream, and ask how
		// the process has ended.
		text := []byte(startErr.Error() + "\r\n")
		if !tty {
			text = frame(stdoutFrame, text)
		}
		_, _ = conn.Write(text) // the client may be gone
	}
	var keys leave
	if tty {
		keys = leave{info.DetachKeys, func() { cs.Detached(info.ContainerID, info.ID) }}
		if len(keys.keys) == 0 {
			keys.keys = defaultKeys
		}
	}
	if startErr != nil || att == nil {
		att = ended{}
	}
	s.join(ctx, conn, att, keys)
	return nil
}

// ended is an attachment to nothing.
type ended struct{}

func (ended) Read([]byte) (int, error)    { return 0, io.EOF }
func (ended) Write(p []byte) (int, error) { return len(p), nil }
func (ended) CloseWrite() error           { return nil }
func (ended) Close() error                { return nil }

func (s *Server) execInspect(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	info, err := cs.ExecInspect(ctx, c.vars[0])
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, info)
}

func (s *Server) execResize(ctx context.Context, c *call) error {
	rows, cols, err := terminalSize(c)
	if err != nil {
		return err
	}
	cs, err := s.containers()
	if err != nil {
		return err
	}
	return cs.ExecResize(ctx, c.vars[0], rows, cols)
}
