package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// importImage is docker import: an image of a tar that the client sends, or that is at a URL.
func (s *Server) importImage(ctx context.Context, c *call) error {
	ref, err := repoTag(c.get("repo"), c.get("tag"))
	if err != nil {
		return err
	}
	opt := worker.ImportOptions{Changes: c.form["changes"], Message: c.get("message")}
	if ref != nil {
		opt.Name = ref.String()
	}
	if !c.before(32) {
		if opt.Platform, err = c.platform(); err != nil {
			return err
		}
	}
	src := c.get("fromSrc")
	if opt.Message == "" {
		opt.Message = "Imported from " + src
	}
	p := newProgress(c)
	body := io.ReadCloser(c.r.Body)
	switch src {
	case "-":
	case "":
		return worker.Invalidf("neither fromImage nor fromSrc is given")
	default:
		if body, err = fetch(ctx, src); err != nil {
			return err
		}
		defer body.Close()
		p.status("Downloading from " + src)
	}
	id, err := s.opt.Images.Import(ctx, body, opt)
	if err != nil {
		return p.end(err)
	}
	p.status(id.String())
	return nil
}

// fetchClient gets what a client of the daemon names by URL: who may use the daemon may use the network as it does.
var fetchClient = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
	TLSHandshakeTimeout:   10 * time.Second,
	ResponseHeaderTimeout: time.Minute,
}}

// fetch opens what is at a URL, of HTTP if it does not say.
func fetch(ctx context.Context, src string) (io.ReadCloser, error) {
	if !strings.Contains(src, "://") {
		src = "http://" + src
	}
	u, err := url.Parse(src)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, worker.Invalidf("invalid URL %q: neither http nor https", src)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, src, nil)
	if err != nil {
		return nil, worker.Invalidf("%v", err)
	}
	resp, err := fetchClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("getting %s: %w", op.RedactURL(u.String()), err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return nil, worker.NotFoundf("getting %s: %s", op.RedactURL(u.String()), resp.Status)
		}
		return nil, worker.Errorf(errdefs.ErrUnknown, "getting %s: %s", op.RedactURL(u.String()), resp.Status)
	}
	return resp.Body, nil
}

// commit makes an image of a container.
func (s *Server) commit(ctx context.Context, c *call) error {
	if s.opt.Containers == nil {
		return errNoContainers
	}
	var conf *configWords
	if err := c.read(&conf); err != nil {
		return err
	}
	ref, err := repoTag(c.get("repo"), c.get("tag"))
	if err != nil {
		return err
	}
	opt := worker.CommitOptions{
		Author: c.get("author"), Message: c.get("comment"), Changes: c.form["changes"],
		NoPause: !c.isOr("pause", true), Config: conf.config(),
	}
	if ref != nil {
		opt.Name = ref.String()
	}
	id, err := s.opt.Containers.Commit(ctx, c.get("container"), opt)
	if err != nil {
		return err
	}
	return c.send(http.StatusCreated, container.CommitResponse{ID: id})
}

var errNoContainers = worker.Errorf(errors.ErrUnsupported, "this daemon runs no containers")
