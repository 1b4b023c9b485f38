package engine

import (
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

// pathStatHeader describes what an archive is of.
const pathStatHeader = "X-Docker-Container-Path-Stat"

func setPathStat(h http.Header, st *container.PathStat) {
	b, err := json.Marshal(st)
	if err != nil {
		panic(fmt.Errorf("a description of a file is not JSON: %w", err))
	}
	h.Set(pathStatHeader, base64.StdEncoding.EncodeToString(b))
}

// archive returns the containers and the path of a request for an archive.
func (s *Server) archive(c *call) (worker.Containers, string, error) {
	path := c.get("path")
	if path == "" {
		return nil, "", worker.Invalidf("bad parameter: 'path' cannot be empty")
	}
	cs, err := s.containers()
	return cs, path, err
}

func (s *Server) statPath(ctx context.Context, c *call) error {
	cs, path, err := s.archive(c)
	if err != nil {
		return err
	}
	st, err := cs.StatPath(ctx, c.vars[0], path)
	if err != nil {
		return err
	}
	setPathStat(c.w.Header(), st)
	return nil
}

// copyFrom is docker cp out of a container.
func (s *Server) copyFrom(ctx context.Context, c *call) error {
	cs, path, err := s.archive(c)
	if err != nil {
		return err
	}
	var packed *gzip.Writer
	err = cs.CopyFrom(ctx, c.vars[0], path, func(st *container.PathStat) io.Writer {
		h := c.w.Header()
		setPathStat(h, st)
		h.Set("Content-Type", "application/x-tar")
		if c.local() || !strings.Contains(c.r.Header.Get("Accept-Encoding"), "gzip") {
			return c.w
		}
		h.Set("Content-Encoding", "gzip")
		packed, _ = gzip.NewWriterLevel(c.w, gzip.BestSpeed) // it is a level
		return packed
	})
	if err == nil && packed != nil {
		err = packed.Close()
	}
	return err
}

// local says whether the client is on this machine, where compressing takes longer than it saves.
func (c *call) local() bool {
	addr, ok := c.r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

// copyTo is docker cp into a container.
func (s *Server) copyTo(ctx context.Context, c *call) error {
	cs, path, err := s.archive(c)
	if err != nil {
		return err
	}
	body := io.ReadCloser(c.r.Body)
	if s.opt.Decompress != nil {
		if body, err = s.opt.Decompress(c.r.Body); err != nil {
			return worker.Invalidf("reading the archive: %v", err)
		}
		defer body.Close()
	}
	return cs.CopyTo(ctx, c.vars[0], path, body, worker.CopyToOptions{
		NoOverwriteDirNonDir: c.is("noOverwriteDirNonDir"), CopyUIDGID: c.is("copyUIDGID"),
	})
}

// export writes all files of a container.
func (s *Server) export(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/octet-stream")
	return cs.Export(ctx, c.vars[0], c.w)
}
