package engine

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/boxbuild/boxbuild/worker"
)

// session makes the connection one on which the client serves what builds ask of it.
func (s *Server) session(_ context.Context, c *call) error {
	if s.opt.Sessions == nil {
		return missing("this daemon has no sessions")
	}
	s.opt.Sessions.ServeHTTP(c.w, c.r)
	return nil
}

// grpc makes the connection one of the daemon's gRPC services.
func (s *Server) grpc(_ context.Context, c *call) error {
	switch {
	case s.opt.GRPC == nil:
		return missing("this daemon has no gRPC services")
	case !strings.EqualFold(c.r.Header.Get("Upgrade"), "h2c"):
		return worker.Invalidf("the connection is to be upgraded to h2c")
	}
	conn, rw, err := c.w.Hijack()
	if err != nil {
		return err
	}
	err = conn.SetDeadline(time.Now().Add(writeTimeout))
	if err == nil {
		_, err = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close() // it is of no use
		return err
	}
	first, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		_ = conn.Close() // likewise
		return err
	}
	s.opt.GRPC(conn, first)
	return nil
}
