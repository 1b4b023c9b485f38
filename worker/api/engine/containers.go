package engine

import (
	"context"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

// containers returns the containers, or the error of a daemon that has none.
func (s *Server) containers() (worker.Containers, error) {
	if s.opt.Containers == nil {
		return nil, errNoContainers
	}
	return s.opt.Containers, nil
}

// do calls an action on the container of the path, and answers that it has been done.
func (s *Server) do(c *call, action func(cs worker.Containers, ref string) error) error {
	cs, err := s.containers()
	if err == nil {
		err = action(cs, c.vars[0])
	}
	if err != nil {
		return err
	}
	return c.sendEmpty()
}

// listContainers is docker ps.
func (s *Server) listContainers(ctx context.Context, c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	limit, err := c.number("limit")
	if err != nil {
		return err
	}
	if filters, err = bounds(c, filters); err != nil {
		return err
	}
	list := []container.Summary{}
	if s.opt.Containers != nil {
		list, err = s.opt.Containers.List(ctx, worker.ListContainersOptions{
			All: c.is("all"), Size: c.is("size"), Limit: int(max(limit, 0)), Filters: filters,
		})
		if err != nil {
			return err
		}
	}
	return c.send(http.StatusOK, containersFor(list, c.version))
}

// bounds adds the parameters since and before, which were there before filters, to these.
func bounds(c *call, filters worker.Filters) (worker.Filters, error) {
	for _, key := range []string{"since", "before"} {
		if v := c.get(key); v != "" {
			if filters == nil {
				filters = worker.Filters{}
			}
			filters[key] = append(filters[key], v)
		}
	}
	if _, ok := filters["annotation"]; ok && c.before(56) {
		return nil, worker.Invalidf("invalid filter 'annotation'")
	}
	return filters, nil
}

// containersFor is a list as clients of a version expect it.
func containersFor(list []container.Summary, v version) []container.Summary {
	before := func(minor int) bool { return v.less(version{1, minor}) }
	for i := range list {
		if before(46) {
			list[i].HostConfig.Annotations = nil
		}
		if before(48) {
			list[i].ImageManifestDescriptor = nil
		}
		if before(52) {
			list[i].Health = nil
		}
	}
	if list == nil {
		return []container.Summary{}
	}
	return list
}

func (s *Server) start(ctx context.Context, c *call) error {
	// A document that is no mere "null" or "{}": options of the container, as clients before 1.24 sent them.
	if c.r.ContentLength > 7 || c.r.ContentLength == -1 {
		return worker.Invalidf("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if c.get("checkpoint") != "" {
		return errExperimental
	}
	return s.do(c, func(cs worker.Containers, ref string) error { return cs.Start(ctx, ref) })
}

// stopOptions reads those of stop and restart.
func stopOptions(c *call) (worker.StopOptions, error) {
	var opt worker.StopOptions
	if !c.before(42) {
		opt.Signal = c.get("signal")
	}
	if c.get("t") == "" {
		return opt, nil
	}
	n, err := c.number("t")
	t := int(n)
	opt.Timeout = &t
	return opt, err
}

func (s *Server) stop(ctx context.Context, c *call) error {
	opt, err := stopOptions(c)
	if err != nil {
		return err
	}
	return s.do(c, func(cs worker.Containers, ref string) error { return cs.Stop(ctx, ref, opt) })
}

func (s *Server) restart(ctx context.Context, c *call) error {
	opt, err := stopOptions(c)
	if err != nil {
		return err
	}
	return s.do(c, func(cs worker.Containers, ref string) error { return cs.Restart(ctx, ref, opt) })
}

func (s *Server) kill(ctx context.Context, c *call) error {
	return s.do(c, func(cs worker.Containers, ref string) error { return cs.Kill(ctx, ref, c.get("signal")) })
}

func (s *Server) pause(ctx context.Context, c *call) error {
	return s.do(c, func(cs worker.Containers, ref string) error { return cs.Pause(ctx, ref) })
}

func (s *Server) unpause(ctx context.Context, c *call) error {
	return s.do(c, func(cs worker.Containers, ref string) error { return cs.Unpause(ctx, ref) })
}

func (s *Server) rename(ctx context.Context, c *call) error {
	return s.do(c, func(cs worker.Containers, ref string) error { return cs.Rename(ctx, ref, c.get("name")) })
}

func (s *Server) removeContainer(ctx context.Context, c *call) error {
	opt := worker.RemoveContainerOptions{Force: c.is("force"), Volumes: c.is("v"), Link: c.is("link")}
	return s.do(c, func(cs worker.Containers, ref string) error { return cs.Remove(ctx, ref, opt) })
}

func (s *Server) pruneContainers(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	filters, err := c.filters()
	if err != nil {
		return err
	}
	rep, err := cs.Prune(ctx, filters)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, rep)
}

// top lists the processes of a container.
func (s *Server) top(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	args := strings.Fields(c.get("ps_args"))
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	list, err := cs.Top(ctx, c.vars[0], args)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, list)
}

func (s *Server) changes(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	list, err := cs.Changes(ctx, c.vars[0])
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, list)
}

// wait answers when a container has ended. The client is told at once that it is being waited for: it starts the container
// only then, so as not to miss the end.
func (s *Server) wait(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	cond := container.WaitConditionNotRunning
	if v := c.get("condition"); v != "" && !c.before(30) {
		switch cond = container.WaitCondition(v); cond {
		case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
		default:
			return worker.Invalidf("invalid condition: %q", v)
		}
	}
	ended, err := cs.Wait(ctx, c.vars[0], cond)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	if !c.before(30) {
		c.w.Flush()
	}
	select {
	case res, ok := <-ended:
		if !ok {
			return errClosing
		}
		return c.sendBody(res)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Server) resize(ctx context.Context, c *call) error {
	rows, cols, err := terminalSize(c)
	if err != nil {
		return err
	}
	cs, err := s.containers()
	if err != nil {
		return err
	}
	return cs.Resize(ctx, c.vars[0], rows, cols)
}

// terminalSize reads the size of a terminal.
func terminalSize(c *call) (rows, cols uint16, err error) {
	for key, to := range map[string]*uint16{"h": &rows, "w": &cols} {
		n, err := c.number(key)
		if err != nil || n < 0 || n > 1<<16-1 {
			return 0, 0, worker.Invalidf("invalid resize %s %q", map[string]string{"h": "height", "w": "width"}[key], c.get(key))
		}
		*to = uint16(n)
	}
	return rows, cols, nil
}

// errExperimental is docker's answer to what needs an experimental daemon.
var errExperimental = missing("This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to enable it.")

func (s *Server) checkpoints(context.Context, *call) error { return errExperimental }
