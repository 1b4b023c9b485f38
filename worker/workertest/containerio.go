package workertest

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// errNotModified is the answer to what is so already.
var errNotModified = worker.Errorf(errdefs.ErrNotModified, "it is so already")

// fakeEndpoints are the networks of a container: one, unless it is asked for others.
func fakeEndpoints(c *ctr) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	if n := c.req.NetworkingConfig; n != nil {
		maps.Copy(out, n.EndpointsConfig)
	}
	if len(out) == 0 {
		out["bridge"] = &network.EndpointSettings{
			NetworkID: "bridge-id", EndpointID: "endpoint-id", IPAddress: netip.MustParseAddr("172.17.0.2"), IPPrefixLen: 16,
			Gateway: netip.MustParseAddr("172.17.0.1"), MacAddress: network.HardwareAddr{2, 0x42, 172, 17, 0, 2},
		}
	}
	return out
}

// Top implements worker.Containers.
func (cs *Containers) Top(_ context.Context, ref string, args []string) (*container.TopResponse, error) {
	_, p, err := cs.find(ref)
	if err != nil {
		return nil, err
	}
	if !p.is(running) {
		return nil, worker.Conflictf("container %s is not running", ref)
	}
	return &container.TopResponse{Titles: []string{"PID", "CMD"}, Processes: [][]string{{"4711", strings.Join(p.args, " ") + " # " + strings.Join(args, " ")}}}, nil
}

// Stats implements worker.Containers: each sample has used more than the last.
func (cs *Containers) Stats(_ context.Context, ref string) (*container.StatsResponse, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, err := cs.findLocked(ref)
	if err != nil {
		return nil, err
	}
	cs.made++
	st := &container.StatsResponse{ID: c.id, Name: "/" + c.name, OSType: "linux", Read: time.Now()}
	st.CPUStats.CPUUsage.TotalUsage, st.CPUStats.SystemUsage, st.CPUStats.OnlineCPUs = uint64(cs.made)*1000, uint64(cs.made)*100_000, 2
	st.MemoryStats.Usage, st.MemoryStats.Limit = 1<<20, 1<<30
	return st, nil
}

// Changes implements worker.Containers.
func (cs *Containers) Changes(_ context.Context, ref string) ([]container.FilesystemChange, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, err := cs.findLocked(ref)
	if err != nil {
		return nil, err
	}
	out := []container.FilesystemChange{}
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		if name != "/etc/hostname" {
			out = append(out, container.FilesystemChange{Kind: container.ChangeAdd, Path: name})
		}
	}
	return out, nil
}

// Attach implements worker.Containers.
func (cs *Containers) Attach(_ context.Context, ref string, opt worker.AttachOptions) (executor.Attachment, error) {
	_, p, err := cs.find(ref)
	if err != nil {
		return nil, err
	}
	return p.attach(opt.Streams, opt.Logs, opt.Stream), nil
}

// Logs implements worker.Containers.
func (cs *Containers) Logs(ctx context.Context, ref string, opt worker.LogsOptions, w io.Writer) error {
	c, p, err := cs.find(ref)
	if err != nil {
		return err
	}
	if h := c.req.HostConfig; h != nil && h.LogConfig.Type == "none" {
		return worker.Errorf(errdefs.ErrNotImplemented, "configured logging driver does not support reading")
	}
	var follow *attachment
	if opt.Follow {
		follow = p.attach(executor.Streams{Stdout: opt.Stdout, Stderr: opt.Stderr}, false, true)
		defer follow.Close()
		defer context.AfterFunc(ctx, func() { _ = follow.Close() })()
	}
	p.mu.Lock()
	all := slices.Clone(p.said)
	p.mu.Unlock()
	all = slices.DeleteFunc(all, func(one said) bool {
		return one.stream == 1 && !opt.Stdout || one.stream == 2 && !opt.Stderr || one.at.Before(opt.Since) ||
			!opt.Until.IsZero() && one.at.After(opt.Until)
	})
	if opt.Tail >= 0 && len(all) > opt.Tail {
		all = all[len(all)-opt.Tail:]
	}
	for _, one := range all {
		text := one.text
		if opt.Timestamps {
			text = append([]byte(one.at.UTC().Format(time.RFC3339Nano)+" "), text...)
		}
		if !p.tty {
			text = frame(one.stream, text)
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	if follow == nil {
		return nil
	}
	_, err = io.Copy(w, follow)
	return err
}

// Resize implements worker.Containers.
func (cs *Containers) Resize(_ context.Context, ref string, rows, cols uint16) error {
	_, p, err := cs.find(ref)
	if err != nil {
		return err
	}
	return p.resize(rows, cols)
}

func (p *process) resize(rows, cols uint16) error {
	if !p.is(running) {
		return worker.Conflictf("the process is not running")
	}
	select {
	case p.sized <- [2]uint16{rows, cols}:
	default: // nobody looks
	}
	return nil
}

// ExecCreate implements worker.Containers.
func (cs *Containers) ExecCreate(_ context.Context, ref string, req *container.ExecCreateRequest) (string, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, err := cs.findLocked(ref)
	switch {
	case err != nil:
		return "", err
	case c.main.state != running:
		return "", worker.Conflictf("container %s is not running", c.id)
	}
	if cs.execs == nil {
		cs.execs = map[string]*process{}
	}
	id := cs.idLocked("exec")
	p := cs.newProcess(req.Cmd, req.Tty, req.AttachStdin)
	p.exec, p.of = req, c.id
	cs.execs[id] = p
	return id, nil
}

func (cs *Containers) exec(id string) (*process, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if p := cs.execs[id]; p != nil {
		return p, nil
	}
	return nil, worker.NotFoundf("No such exec instance: %s", id)
}

// ExecStart implements worker.Containers.
func (cs *Containers) ExecStart(
	_ context.Context, id string, _ *container.ExecStartRequest, s executor.Streams,
) (executor.Attachment, error) {
	p, err := cs.exec(id)
	if err != nil {
		return nil, err
	}
	if !p.is(waiting) {
		return nil, worker.Conflictf("exec command %s is already running", id)
	}
	var att executor.Attachment
	if s != (executor.Streams{}) {
		att = p.attach(s, false, true)
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if err := p.startLocked(); err != nil {
		return nil, worker.Invalidf("OCI runtime exec failed: %v", err)
	}
	return att, nil
}

// ExecInspect implements worker.Containers.
func (cs *Containers) ExecInspect(_ context.Context, id string) (*container.ExecInspectResponse, error) {
	p, err := cs.exec(id)
	if err != nil {
		return nil, err
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	out := &container.ExecInspectResponse{
		ID: id, ContainerID: p.of, Running: p.state == running, OpenStdin: p.exec.AttachStdin, OpenStdout: p.exec.AttachStdout,
		OpenStderr: p.exec.AttachStderr, ProcessConfig: &container.ExecProcessConfig{Tty: p.tty, Entrypoint: p.args[0], Arguments: p.args[1:]},
	}
	if p.state == over {
		code := p.code
		out.ExitCode = &code
	}
	return out, nil
}

// ExecResize implements worker.Containers.
func (cs *Containers) ExecResize(_ context.Context, id string, rows, cols uint16) error {
	p, err := cs.exec(id)
	if err != nil {
		return err
	}
	return p.resize(rows, cols)
}

// Detached implements worker.Containers.
func (cs *Containers) Detached(ref, exec string) {
	cs.mu.Lock()
	c, err := cs.findLocked(ref)
	cs.mu.Unlock()
	switch {
	case err != nil:
	case exec == "":
		cs.publish(c, events.ActionDetach)
	default:
		cs.publish(c, events.ActionExecDetach, "execID", exec)
	}
}

// file finds a file of a container.
func (cs *Containers) file(ref, name string) (content string, st *container.PathStat, err error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, err := cs.findLocked(ref)
	if err != nil {
		return "", nil, err
	}
	content, ok := c.files[path.Clean("/"+name)]
	if !ok {
		return "", nil, worker.NotFoundf("Could not find the file %s in container %s", name, ref)
	}
	return content, &container.PathStat{Name: path.Base(name), Size: int64(len(content)), Mode: 0o644, Mtime: time.Unix(1, 0).UTC()}, nil
}

// StatPath implements worker.Containers.
func (cs *Containers) StatPath(_ context.Context, ref, name string) (*container.PathStat, error) {
	_, st, err := cs.file(ref, name)
	return st, err
}

// CopyFrom implements worker.Containers.
func (cs *Containers) CopyFrom(_ context.Context, ref, name string, w func(*container.PathStat) io.Writer) error {
	content, st, err := cs.file(ref, name)
	if err != nil {
		return err
	}
	return writeTar(w(st), map[string]string{st.Name: content})
}

func writeTar(w io.Writer, files map[string]string) error {
	t := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			return err
		}
		if _, err := io.WriteString(t, files[name]); err != nil {
			return err
		}
	}
	return t.Close()
}

// CopyTo implements worker.Containers.
func (cs *Containers) CopyTo(_ context.Context, ref, dir string, r io.Reader, _ worker.CopyToOptions) error {
	c, _, err := cs.find(ref)
	if err != nil {
		return err
	}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var b []byte
		if err == nil {
			b, err = io.ReadAll(t)
		}
		if err != nil {
			return worker.Invalidf("reading the archive: %v", err)
		}
		cs.mu.Lock()
		c.files[path.Join("/", dir, h.Name)] = string(b)
		cs.mu.Unlock()
	}
}

// Export implements worker.Containers.
func (cs *Containers) Export(_ context.Context, ref string, w io.Writer) error {
	c, _, err := cs.find(ref)
	if err != nil {
		return err
	}
	cs.mu.Lock()
	files := map[string]string{}
	for name, content := range c.files {
		files[strings.TrimPrefix(name, "/")] = content
	}
	cs.mu.Unlock()
	return writeTar(w, files)
}

// Commit implements worker.Containers.
func (cs *Containers) Commit(ctx context.Context, ref string, opt worker.CommitOptions) (string, error) {
	c, _, err := cs.find(ref)
	if err != nil {
		return "", err
	}
	id, err := cs.Images.Import(ctx, strings.NewReader(fmt.Sprint("committed ", c.id, opt.Author, opt.Message)), worker.ImportOptions{
		Name: opt.Name, Message: opt.Message, Changes: opt.Changes,
	})
	return id.String(), err
}
