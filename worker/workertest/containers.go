package workertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/worker"
)

// Containers implements worker.Containers in memory: the process of a container is a Go function that knows a few commands
// (see play). They have files, but no file system: a path is a name. It is safe for concurrent use.
type Containers struct {
	Images *Images       // which containers are of; they must be there
	Events worker.Events // told of what happens; may be nil

	mu    sync.Mutex // guards all below, and what says so
	list  []*ctr     // in the order of their creation
	execs map[string]*process
	made  int // containers and execs so far
}

var _ worker.Containers = (*Containers)(nil)

// A ctr is a container.
type ctr struct {
	id, name string
	image    string
	created  time.Time
	req      worker.ContainerCreate
	main     *process
	paused   bool
	restarts int
	files    map[string]string // by path
	waiters  []*waiter
}

// A waiter is a call of Wait.
type waiter struct {
	cond container.WaitCondition
	ch   chan container.WaitResponse
}

// ID of the n-th thing that is made.
func (cs *Containers) idLocked(kind string) string {
	cs.made++
	return digest.FromString(fmt.Sprint(kind, cs.made)).Encoded()
}

// publish tells of what happens to a container. cs.mu is not held.
func (cs *Containers) publish(c *ctr, action events.Action, more ...string) {
	if cs.Events == nil {
		return
	}
	cs.mu.Lock()
	attrs := map[string]string{"name": c.name, "image": c.req.Image}
	cs.mu.Unlock()
	for k, v := range c.req.Labels {
		attrs[k] = v
	}
	for i := 0; i+1 < len(more); i += 2 {
		attrs[more[i]] = more[i+1]
	}
	cs.Events.Publish(events.Message{
		Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: c.id, Attributes: attrs},
	})
}

// findLocked finds a container by name, ID or unique prefix.
func (cs *Containers) findLocked(ref string) (*ctr, error) {
	var found []*ctr
	for _, c := range cs.list {
		if c.id == ref || c.name == strings.TrimPrefix(ref, "/") {
			return c, nil
		}
		if ref != "" && strings.HasPrefix(c.id, ref) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return nil, worker.NotFoundf("No such container: %s", ref)
	case 1:
		return found[0], nil
	}
	return nil, worker.Invalidf("multiple IDs found with provided prefix: %s", ref)
}

// find finds a container with the process that it has now.
func (cs *Containers) find(ref string) (*ctr, *process, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, err := cs.findLocked(ref)
	if err != nil {
		return nil, nil, err
	}
	return c, c.main, nil
}

// Create implements worker.Containers.
func (cs *Containers) Create(_ context.Context, req *worker.ContainerCreate) (*container.CreateResponse, error) {
	img, err := cs.Images.find(req.Image)
	if err != nil {
		return nil, worker.NotFoundf("No such image: %s", req.Image)
	}
	cs.mu.Lock()
	if req.Name != "" {
		if other, err := cs.findLocked(req.Name); err == nil && other.name == req.Name {
			cs.mu.Unlock()
			return nil, worker.Conflictf("Conflict. The container name %q is already in use by container %q. "+
				"You have to remove (or rename) that container to be able to reuse that name.", "/"+req.Name, other.id)
		}
	}
	c := &ctr{
		id: cs.idLocked("container"), name: req.Name, image: img.ID.String(), created: time.Now(), req: *req,
		files: map[string]string{"/etc/hostname": "fake\n"},
	}
	if c.name == "" {
		c.name = fmt.Sprintf("plain_name%d", cs.made)
	}
	c.main = cs.newProcess(append(slices.Clone(req.Entrypoint), req.Cmd...), req.Tty, req.OpenStdin)
	cs.list = append(cs.list, c)
	cs.mu.Unlock()
	cs.publish(c, events.ActionCreate)
	return &container.CreateResponse{ID: c.id}, nil
}

// Start implements worker.Containers.
func (cs *Containers) Start(_ context.Context, ref string) error {
	cs.mu.Lock()
	c, err := cs.findLocked(ref)
	switch {
	case err != nil:
		cs.mu.Unlock()
		return err
	case c.main.state == running:
		cs.mu.Unlock()
		return errNotModified
	case c.main.state == over:
		c.main = c.main.again(cs)
	}
	p := c.main
	p.atEnd = func() { c.endedLocked(p) }
	err = p.startLocked()
	cs.mu.Unlock()
	if err != nil {
		return err
	}
	cs.publish(c, events.ActionStart)
	go func() {
		<-p.ended
		cs.ended(c, p)
	}()
	return nil
}

// endedLocked tells those who wait that a container's process has ended.
func (c *ctr) endedLocked(p *process) {
	c.paused = false
	var waiting []*waiter
	for _, w := range c.waiters {
		if w.cond == container.WaitConditionRemoved {
			waiting = append(waiting, w)
			continue
		}
		w.ch <- container.WaitResponse{StatusCode: int64(p.code)}
	}
	c.waiters = waiting
}

// ended tells everybody else.
func (cs *Containers) ended(c *ctr, p *process) {
	cs.publish(c, events.ActionDie, "exitCode", fmt.Sprint(p.code))
	if c.req.HostConfig != nil && c.req.HostConfig.AutoRemove {
		_ = cs.Remove(context.Background(), c.id, worker.RemoveContainerOptions{}) // somebody else may have
	}
}

// Stop implements worker.Containers.
func (cs *Containers) Stop(ctx context.Context, ref string, opt worker.StopOptions) error {
	c, p, err := cs.find(ref)
	if err != nil {
		return err
	}
	if !p.is(running) {
		return errNotModified
	}
	signal := opt.Signal
	if signal == "" {
		signal = "SIGTERM"
	}
	if err := cs.Kill(ctx, ref, signal); err != nil {
		return err
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	cs.publish(c, events.ActionStop)
	return nil
}

// Restart implements worker.Containers.
func (cs *Containers) Restart(ctx context.Context, ref string, opt worker.StopOptions) error {
	c, p, err := cs.find(ref)
	if err != nil {
		return err
	}
	if p.is(running) {
		if err := cs.Stop(ctx, ref, opt); err != nil {
			return err
		}
	}
	if err := cs.Start(ctx, ref); err != nil {
		return err
	}
	cs.publish(c, events.ActionRestart)
	return nil
}

// Kill implements worker.Containers: every signal ends the process but SIGWINCH.
func (cs *Containers) Kill(_ context.Context, ref, signal string) error {
	c, p, err := cs.find(ref)
	if err != nil {
		return err
	}
	if !p.is(running) {
		return worker.Conflictf("cannot kill container: %s: container %s is not running", ref, c.id)
	}
	code, ok := map[string]int{"": 137, "KILL": 137, "9": 137, "TERM": 143, "15": 143, "INT": 130, "WINCH": 0, "HUP": 129}[strings.TrimPrefix(signal, "SIG")]
	if !ok {
		return worker.Invalidf("invalid signal: %s", signal)
	}
	cs.publish(c, events.ActionKill, "signal", signal)
	if code != 0 {
		p.kill(code)
	}
	return nil
}

// Pause implements worker.Containers.
func (cs *Containers) Pause(_ context.Context, ref string) error { return cs.setPaused(ref, true) }

// Unpause implements worker.Containers.
func (cs *Containers) Unpause(_ context.Context, ref string) error { return cs.setPaused(ref, false) }

func (cs *Containers) setPaused(ref string, paused bool) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, err := cs.findLocked(ref)
	switch {
	case err != nil:
		return err
	case c.main.state != running:
		return worker.Conflictf("Container %s is not running", c.id)
	case c.paused == paused && paused:
		return worker.Conflictf("Container %s is already paused", ref)
	case c.paused == paused:
		return worker.Conflictf("Container %s is not paused", ref)
	}
	c.paused = paused
	return nil
}

// Rename implements worker.Containers.
func (cs *Containers) Rename(_ context.Context, ref, name string) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, err := cs.findLocked(ref)
	switch {
	case err != nil:
		return err
	case name == "":
		return worker.Invalidf("Neither old nor new names may be empty")
	}
	if other, err := cs.findLocked(name); err == nil && other != c {
		return worker.Conflictf("Error when allocating new name: Conflict. The container name %q is already in use", "/"+name)
	}
	c.name = name
	return nil
}

// Update implements worker.Containers.
func (cs *Containers) Update(_ context.Context, ref string, u *container.UpdateConfig) (*container.UpdateResponse, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, err := cs.findLocked(ref)
	if err != nil {
		return nil, err
	}
	if c.req.HostConfig == nil {
		c.req.HostConfig = &container.HostConfig{}
	}
	c.req.HostConfig.Resources, c.req.HostConfig.RestartPolicy = u.Resources, u.RestartPolicy
	return &container.UpdateResponse{Warnings: []string{}}, nil
}

// Wait implements worker.Containers.
func (cs *Containers) Wait(_ context.Context, ref string, cond container.WaitCondition) (<-chan container.WaitResponse, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, err := cs.findLocked(ref)
	if err != nil {
		return nil, err
	}
	w := &waiter{cond: cond, ch: make(chan container.WaitResponse, 1)}
	if cond == container.WaitConditionNotRunning && c.main.state != running {
		w.ch <- container.WaitResponse{StatusCode: int64(c.main.code)}
		return w.ch, nil
	}
	c.waiters = append(c.waiters, w)
	return w.ch, nil
}

// Remove implements worker.Containers.
func (cs *Containers) Remove(ctx context.Context, ref string, opt worker.RemoveContainerOptions) error {
	c, p, err := cs.find(ref)
	if err != nil {
		return err
	}
	if p.is(running) {
		if !opt.Force {
			return worker.Conflictf("cannot remove container %q: container is running: stop the container before removing or force remove", "/"+c.name)
		}
		if err := cs.Kill(ctx, c.id, "KILL"); err != nil {
			return err
		}
		<-p.ended
	}
	cs.mu.Lock()
	was := len(cs.list)
	cs.list = slices.DeleteFunc(cs.list, func(o *ctr) bool { return o == c })
	removed := len(cs.list) < was
	waiters := c.waiters
	c.waiters = nil
	code := p.code
	cs.mu.Unlock()
	if !removed {
		return worker.NotFoundf("No such container: %s", ref)
	}
	for _, w := range waiters {
		w.ch <- container.WaitResponse{StatusCode: int64(code)}
	}
	cs.publish(c, events.ActionDestroy)
	return nil
}

// Prune implements worker.Containers.
func (cs *Containers) Prune(ctx context.Context, filters worker.Filters) (*container.PruneReport, error) {
	if err := filters.Check("label", "label!", "until"); err != nil {
		return nil, err
	}
	cs.mu.Lock()
	var ids []string
	for _, c := range cs.list {
		if c.main.state != running && filters.Labels(c.req.Labels) {
			ids = append(ids, c.id)
		}
	}
	cs.mu.Unlock()
	rep := &container.PruneReport{}
	for _, id := range ids {
		if cs.Remove(ctx, id, worker.RemoveContainerOptions{}) == nil {
			rep.ContainersDeleted = append(rep.ContainersDeleted, id)
			rep.SpaceReclaimed += 10
		}
	}
	return rep, nil
}

// List implements worker.Containers.
func (cs *Containers) List(_ context.Context, opt worker.ListContainersOptions) ([]container.Summary, error) {
	if err := opt.Filters.Check("name", "id", "label", "status", "ancestor", "exited", "since", "before", "annotation"); err != nil {
		return nil, err
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var out []container.Summary
	for _, c := range slices.Backward(cs.list) {
		st := c.stateLocked()
		all := opt.All || opt.Limit > 0 || len(opt.Filters["status"]) > 0
		if !all && c.main.state != running || !opt.Filters.Labels(c.req.Labels) ||
			!opt.Filters.Contains("name", "/"+c.name) || !opt.Filters.Match("status", string(st.Status)) {
			continue
		}
		if opt.Limit > 0 && len(out) == opt.Limit {
			break
		}
		s := container.Summary{
			ID: c.id, Names: []string{"/" + c.name}, Image: c.req.Image, ImageID: c.image, Command: strings.Join(c.main.args, " "),
			Created: c.created.Unix(), Labels: c.req.Labels, State: st.Status, Status: "Up 1 second", Ports: []container.PortSummary{},
			NetworkSettings: &container.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{"bridge": {}}},
		}
		if c.main.state != running {
			s.Status = fmt.Sprintf("Exited (%d) 1 second ago", c.main.code)
		}
		if opt.Size {
			s.SizeRw, s.SizeRootFs = 10, 1000
		}
		out = append(out, s)
	}
	return out, nil
}

func (c *ctr) stateLocked() *container.State {
	st := &container.State{Status: container.StateCreated, StartedAt: "0001-01-01T00:00:00Z", FinishedAt: "0001-01-01T00:00:00Z"}
	switch {
	case c.paused:
		st.Status, st.Running, st.Paused, st.Pid = container.StatePaused, true, true, 4711
	case c.main.state == running:
		st.Status, st.Running, st.Pid = container.StateRunning, true, 4711
	case c.main.state == over:
		st.Status, st.ExitCode = container.StateExited, c.main.code
	}
	return st
}

// Inspect implements worker.Containers.
func (cs *Containers) Inspect(_ context.Context, ref string, size bool) (*container.InspectResponse, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, err := cs.findLocked(ref)
	if err != nil {
		return nil, err
	}
	config := *c.req.Config
	host := container.HostConfig{LogConfig: container.LogConfig{Type: "json-file"}}
	if c.req.HostConfig != nil {
		host = *c.req.HostConfig
	}
	out := &container.InspectResponse{
		ID: c.id, Created: c.created.UTC().Format(time.RFC3339Nano), Image: c.image, Name: "/" + c.name, State: c.stateLocked(),
		RestartCount: c.restarts, Driver: "overlayfs", Platform: "linux", Config: &config, HostConfig: &host, Mounts: []container.MountPoint{},
		NetworkSettings: &container.NetworkSettings{Ports: network.PortMap{}, Networks: fakeEndpoints(c)},
	}
	if len(c.main.args) > 0 {
		out.Path, out.Args = c.main.args[0], c.main.args[1:]
	}
	for _, m := range host.Mounts {
		out.Mounts = append(out.Mounts, container.MountPoint{Type: mount.TypeVolume, Name: m.Source, Destination: m.Target, RW: !m.ReadOnly})
	}
	if size {
		rw, root := int64(10), int64(1000)
		out.SizeRw, out.SizeRootFs = &rw, &root
	}
	return out, nil
}
