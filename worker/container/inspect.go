package container

import (
	"context"
	"io/fs"
	"path/filepath"
	"regexp"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/worker"
)

// nameExpr is the expression of a filter by name; nil if it is none.
func nameExpr(v string) *regexp.Regexp {
	expr, err := regexp.Compile(v)
	if err != nil {
		return nil
	}
	return expr
}

// Inspect implements worker.Containers.
func (m *Manager) Inspect(ctx context.Context, ref string, size bool) (*container.InspectResponse, error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	rec := c.get()
	out := m.inspect(rec)
	for _, p := range m.execsOf(c) {
		p.mu.Lock()
		if p.running {
			out.ExecIDs = append(out.ExecIDs, p.id)
		}
		p.mu.Unlock()
	}
	m.storage(c, out)
	if size {
		rw, root := m.sizes(ctx, c)
		out.SizeRw, out.SizeRootFs = &rw, &root
	}
	return out, nil
}

func (m *Manager) inspect(rec *record) *container.InspectResponse {
	file, args := rec.command()
	if args == nil {
		args = []string{}
	}
	s := rec.Status
	out := &container.InspectResponse{
		ID: rec.ID, Created: zeroOr(rec.Created), Path: file, Args: args, Image: string(rec.Image), Name: "/" + rec.Name,
		ResolvConfPath: m.filePath(rec, "resolv.conf"), HostsPath: m.filePath(rec, "hosts"), HostnamePath: m.filePath(rec, "hostname"),
		RestartCount: s.Restarts, Driver: worker.StorageDriver(m.deps.Driver), Platform: rec.Platform.OS, HostConfig: m.shownHost(rec), Config: rec.Config,
		Mounts: m.mountPoints(rec), NetworkSettings: m.networkSettings(rec),
		State: &container.State{
			Status: container.ContainerState(s.Phase), Running: s.Up(), Paused: s.Phase == Paused, Restarting: s.Phase == Restarting,
			OOMKilled: s.OOMKilled, Dead: s.Phase == Dead, Pid: s.Pid, ExitCode: s.ExitCode, Error: s.Error,
			StartedAt: zeroOr(s.StartedAt), FinishedAt: zeroOr(s.FinishedAt), Health: s.Health,
		},
	}
	if rec.HostConfig.LogConfig.Type == logJSON {
		out.LogPath = m.logPath(rec)
	}
	for _, opt := range rec.HostConfig.SecurityOpt {
		if len(opt) > 9 && (opt[:9] == "apparmor=" || opt[:9] == "apparmor:") {
			out.AppArmorProfile = opt[9:]
		}
	}
	return out
}

func (m *Manager) networkSettings(rec *record) *container.NetworkSettings {
	out := m.deps.Network.Settings(rec.ID)
	if out == nil {
		out = &container.NetworkSettings{}
	} else {
		clone := *out
		out = &clone
	}
	out.Networks = m.endpoints(rec)
	if out.Ports == nil {
		out.Ports = make(network.PortMap)
	}
	if rec.hasPorts() {
		ports := make(network.PortMap, len(out.Ports)+len(rec.Config.ExposedPorts))
		for port := range rec.Config.ExposedPorts {
			ports[port] = nil
		}
		for port, bindings := range out.Ports {
			ports[port] = bindings
		}
		out.Ports = ports
	}
	return out
}

// storage tells where the files are, as docker does for overlay2.
func (m *Manager) storage(c *ctr, out *container.InspectResponse) {
	data := map[string]string{"ID": c.id}
	if w, ok := m.deps.Snapshots.(snapshot.DraftWriter); ok {
		if dir, ok, err := w.DraftUpper(context.Background(), c.draft()); ok && err == nil {
			data["UpperDir"], data["WorkDir"] = dir, filepath.Join(filepath.Dir(dir), "work")
		}
	}
	if d, ok := m.deps.Snapshots.(snapshot.Differ); ok && c.get().lower() != "" {
		var lower []byte
		for id := c.get().lower(); id != ""; {
			dir, ok, err := d.Upper(context.Background(), id)
			if err != nil || !ok {
				break
			}
			if lower != nil {
				lower = append(lower, ':')
			}
			lower = append(lower, dir...)
			info, err := m.deps.Snapshots.Stat(context.Background(), id)
			if err != nil {
				break
			}
			id = info.Parent
		}
		data["LowerDir"] = string(lower)
	}
	if pid := out.State.Pid; pid != 0 {
		data["MergedDir"] = "/proc/" + itoa(pid) + "/root"
	} else {
		data["MergedDir"] = filepath.Join(filepath.Dir(data["UpperDir"]), "merged")
	}
	name := worker.StorageDriver(m.deps.Driver)
	out.GraphDriver = &storage.DriverData{Name: name, Data: data}
}

// sizes counts what the container has written, and that together with the size of its image. If that has been removed, what is
// kept of it for the container is counted.
func (m *Manager) sizes(ctx context.Context, c *ctr) (rw, root int64) {
	if w, ok := m.deps.Snapshots.(snapshot.DraftWriter); ok {
		if dir, ok, err := w.DraftUpper(ctx, c.draft()); ok && err == nil {
			rw = usage(dir)
		}
	}
	rec := c.get()
	if img, err := m.deps.Images.Get(string(rec.Image), nil); err == nil {
		return rw, rw + img.Size()
	}
	root = rw
	for id := rec.Snapshot; id != ""; {
		info, err := m.deps.Snapshots.Stat(ctx, id)
		if err != nil {
			break // it is kept; a size that is not known is none
		}
		root += max(0, info.Size)
		id = info.Parent
	}
	return rw, root
}

// usage sums up the sizes of the files below dir, each once.
func usage(dir string) (size int64) {
	type inode struct{ dev, ino uint64 }
	seen := make(map[inode]bool)
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it has vanished
		}
		var st unix.Stat_t
		if !d.Type().IsRegular() || unix.Lstat(path, &st) != nil {
			return nil
		}
		if id := (inode{st.Dev, st.Ino}); st.Nlink > 1 {
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		size += st.Size
		return nil
	})
	return size
}
