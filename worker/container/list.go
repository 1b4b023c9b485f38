package container

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// listFilters are the filters of docker ps.
var listFilters = []string{
	"ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network", "publish",
	"since", "status", "volume",
}

// List implements worker.Containers.
func (m *Manager) List(ctx context.Context, opt worker.ListContainersOptions) ([]container.Summary, error) {
	f, err := m.listFilter(&opt)
	if err != nil {
		return nil, err
	}
	all := m.all()
	slices.Reverse(all) // the newest first
	out := []container.Summary{}
	for _, c := range all {
		rec := c.get()
		if rec.Status.Phase == Gone || !f.match(rec) {
			continue
		}
		s := m.summarise(rec)
		if opt.Size {
			s.SizeRw, s.SizeRootFs = m.sizes(ctx, c)
		}
		out = append(out, s)
		if opt.Limit > 0 && len(out) == opt.Limit {
			break
		}
	}
	return out, nil
}

// A listFilter is the filters of one list, made ready.
type listFilter struct {
	m             *Manager
	filters       worker.Filters
	all           bool
	exited        map[int]bool
	before, since *record
	task          bool
	ancestors     map[string]bool // IDs of images that were asked for or stand on one
	publish       []portFilter
	expose        []portFilter
}

func (m *Manager) listFilter(opt *worker.ListContainersOptions) (*listFilter, error) {
	fs := opt.Filters
	if err := fs.Check(listFilters...); err != nil {
		return nil, err
	}
	f := &listFilter{m: m, filters: fs, all: opt.All || opt.Limit > 0 || len(fs["status"]) > 0}
	for _, v := range fs["status"] {
		if err := container.ValidateContainerState(container.ContainerState(v)); err != nil {
			return nil, worker.Invalidf("%v", err)
		}
	}
	for _, v := range fs["health"] {
		if err := container.ValidateHealthStatus(container.HealthStatus(v)); err != nil {
			return nil, worker.Invalidf("%v", err)
		}
	}
	if err := f.setExited(); err != nil {
		return nil, err
	}
	var err error
	if f.task, err = fs.Bool("is-task", false); err != nil {
		return nil, err
	}
	for key, to := range map[string]**record{"before": &f.before, "since": &f.since} {
		for _, ref := range fs[key] {
			c, err := m.find(ref)
			if err != nil {
				return nil, err
			}
			*to = c.get()
			f.all = true
		}
	}
	if f.publish, err = portFilters(fs["publish"]); err != nil {
		return nil, err
	}
	if f.expose, err = portFilters(fs["expose"]); err != nil {
		return nil, err
	}
	return f, f.setAncestors()
}

func (f *listFilter) setExited() error {
	for _, v := range f.filters["exited"] {
		var code int
		if _, err := fmt.Sscanf(v, "%d", &code); err != nil || itoa(code) != v {
			return worker.Invalidf("invalid filter 'exited=%s'", v)
		}
		if f.exited == nil {
			f.exited = make(map[int]bool)
		}
		f.exited[code] = true
		f.all = true
	}
	return nil
}

// setAncestors finds the images that begin with the layers of those that were asked for.
func (f *listFilter) setAncestors() error {
	if len(f.filters["ancestor"]) == 0 {
		return nil
	}
	f.ancestors = make(map[string]bool)
	images, err := f.m.deps.Images.List()
	if err != nil {
		return err
	}
	for _, ref := range f.filters["ancestor"] {
		of, err := f.m.deps.Images.Get(ref, nil)
		if err != nil {
			continue // none has it
		}
		f.ancestors[string(of.ID)] = true
		n := len(of.Layers)
		for _, img := range images {
			if n > 0 && len(img.Layers) >= n && slices.Equal(img.DiffIDs()[:n], of.DiffIDs()) {
				f.ancestors[string(img.ID)] = true
			}
		}
	}
	return nil
}

// match says whether a container is to be listed.
func (f *listFilter) match(rec *record) bool {
	s := rec.Status
	switch {
	case !f.all && !s.Up():
	case f.task: // no container is a swarm's
	case !f.filters.Match("status", string(s.Phase)):
	case f.exited != nil && (!f.exited[s.ExitCode] || s.Up() || s.StartedAt.IsZero()):
	case f.before != nil && !rec.Created.Before(f.before.Created):
	case f.since != nil && !rec.Created.After(f.since.Created):
	case f.ancestors != nil && !f.ancestors[string(rec.Image)]:
	case !f.filters.Labels(rec.Config.Labels):
	case !f.filters.Match("health", string(healthStatus(s.Health))):
	case !f.filters.Match("isolation", string(rec.HostConfig.Isolation)):
	case !f.matchName(rec), !f.matchID(rec), !f.matchVolume(rec), !f.matchNetwork(rec), !f.matchPorts(rec):
	default:
		return true
	}
	return false
}

func healthStatus(h *container.Health) container.HealthStatus {
	if h == nil {
		return container.NoHealthcheck
	}
	return h.Status
}

// matchName looks for a part of the name, with or without a slash before; docker takes an expression.
func (f *listFilter) matchName(rec *record) bool {
	return len(f.filters["name"]) == 0 || slices.ContainsFunc(f.filters["name"], func(v string) bool {
		expr := nameExpr(v)
		if expr == nil {
			return strings.Contains(rec.Name, v)
		}
		return expr.MatchString(rec.Name) || expr.MatchString("/"+rec.Name)
	})
}

func (f *listFilter) matchID(rec *record) bool {
	return len(f.filters["id"]) == 0 ||
		slices.ContainsFunc(f.filters["id"], func(v string) bool { return strings.HasPrefix(rec.ID, v) })
}

func (f *listFilter) matchVolume(rec *record) bool {
	if len(f.filters["volume"]) == 0 {
		return true
	}
	return slices.ContainsFunc(rec.Mounts, func(p mountPoint) bool {
		return slices.ContainsFunc(f.filters["volume"], func(v string) bool {
			return v != "" && (v == p.Name || v == p.Source || v == p.Target)
		})
	})
}

func (f *listFilter) matchNetwork(rec *record) bool {
	wanted := f.filters["network"]
	if len(wanted) == 0 {
		return true
	}
	for name, e := range f.m.endpoints(rec) {
		if slices.ContainsFunc(wanted, func(v string) bool { return v == name || v != "" && strings.HasPrefix(e.NetworkID, v) }) {
			return true
		}
	}
	return slices.Contains(wanted, string(rec.HostConfig.NetworkMode))
}

// A portFilter is a range of ports of a protocol.
type portFilter struct {
	from, to uint16
	proto    network.IPProtocol
}

func portFilters(values []string) (out []portFilter, err error) {
	for _, v := range values {
		r, err := network.ParsePortRange(v)
		if err != nil {
			return nil, worker.Invalidf("invalid filter '%s'", v)
		}
		out = append(out, portFilter{r.Start(), r.End(), r.Proto()})
	}
	return out, nil
}

func (f *listFilter) matchPorts(rec *record) bool {
	if len(f.publish) == 0 && len(f.expose) == 0 {
		return true
	}
	has := func(filters []portFilter, port func(container.PortSummary) uint16) bool {
		return len(filters) == 0 || slices.ContainsFunc(f.m.ports(rec), func(p container.PortSummary) bool {
			return slices.ContainsFunc(filters, func(w portFilter) bool {
				return port(p) >= w.from && port(p) <= w.to && port(p) != 0 && string(w.proto) == p.Type
			})
		})
	}
	return has(f.publish, func(p container.PortSummary) uint16 { return p.PublicPort }) &&
		has(f.expose, func(p container.PortSummary) uint16 { return p.PrivatePort })
}

// summarise makes a line of the list.
func (m *Manager) summarise(rec *record) container.Summary {
	file, args := rec.command()
	s := container.Summary{
		ID: rec.ID, Names: []string{"/" + rec.Name}, Image: m.imageName(rec), ImageID: string(rec.Image),
		Command: commandLine(file, args), Created: rec.Created.Unix(), Ports: m.ports(rec),
		Labels: rec.Config.Labels, State: container.ContainerState(rec.Status.Phase), Status: m.describe(rec.Status),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: m.endpoints(rec)}, Mounts: m.mountPoints(rec),
	}
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	s.HostConfig.NetworkMode, s.HostConfig.Annotations = string(rec.HostConfig.NetworkMode), rec.HostConfig.Annotations
	s.Health = &container.HealthSummary{Status: healthStatus(rec.Status.Health)}
	if h := rec.Status.Health; h != nil {
		s.Health.FailingStreak = h.FailingStreak
	}
	return s
}

// commandLine quotes arguments with spaces, as docker does.
func commandLine(file string, args []string) string {
	line := file
	for _, a := range args {
		if strings.Contains(a, " ") {
			a = "'" + a + "'"
		}
		line += " " + a
	}
	return line
}

// imageName is the image as the user named it, or its ID if that name leads to another image now.
func (m *Manager) imageName(rec *record) string {
	if rec.Image == "" {
		return rec.Config.Image
	}
	if img, err := m.deps.Images.Get(rec.Config.Image, &rec.Platform); err == nil && img.ID == rec.Image {
		return rec.Config.Image
	}
	return string(rec.Image)
}

// describe is what docker ps says of a status.
func (m *Manager) describe(s Status) string {
	ago := func(t time.Time) string { return units.HumanDuration(m.now().Sub(t)) }
	switch s.Phase {
	case Running:
		up := "Up " + ago(s.StartedAt)
		switch h := healthStatus(s.Health); h {
		case container.NoHealthcheck:
			return up
		case container.Starting:
			return up + " (health: starting)"
		default:
			return fmt.Sprintf("%s (%s)", up, h)
		}
	case Paused:
		return "Up " + ago(s.StartedAt) + " (Paused)"
	case Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", s.ExitCode, ago(s.FinishedAt))
	case Removing, Gone:
		return "Removal In Progress"
	case Dead:
		return "Dead"
	case Created:
		return "Created"
	case Exited:
	}
	return fmt.Sprintf("Exited (%d) %s ago", s.ExitCode, ago(s.FinishedAt))
}

// endpoints are what inspect shows of the container's networks, running or not.
func (m *Manager) endpoints(rec *record) map[string]*network.EndpointSettings {
	if s := m.deps.Network.Settings(rec.ID); s != nil && s.Networks != nil {
		return s.Networks
	}
	out := make(map[string]*network.EndpointSettings, len(rec.Endpoints))
	maps.Copy(out, rec.Endpoints)
	if len(out) == 0 && !rec.HostConfig.NetworkMode.IsContainer() {
		out[string(rec.HostConfig.NetworkMode)] = new(network.EndpointSettings)
	}
	return out
}

// ports are the exposed and the published ports, sorted.
func (m *Manager) ports(rec *record) []container.PortSummary {
	out := []container.PortSummary{}
	published := make(map[network.Port]bool)
	if s := m.deps.Network.Settings(rec.ID); s != nil {
		for port, bindings := range s.Ports {
			published[port] = len(bindings) > 0
			for _, b := range bindings {
				p := container.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto()), IP: b.HostIP}
				if r, err := network.ParsePortRange(b.HostPort); err == nil {
					p.PublicPort = r.Start()
				}
				out = append(out, p)
			}
		}
	}
	if rec.hasPorts() {
		for port := range rec.Config.ExposedPorts {
			if !published[port] {
				out = append(out, container.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto())})
			}
		}
	}
	slices.SortFunc(out, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), compareIP(a.IP, b.IP),
			cmp.Compare(a.PublicPort, b.PublicPort))
	})
	return out
}

func compareIP(a, b netip.Addr) int { return a.Compare(b) }

// mountPoints are the mounts as inspect shows them.
func (m *Manager) mountPoints(rec *record) []container.MountPoint {
	out := []container.MountPoint{}
	for _, p := range rec.Mounts {
		if p.Plain {
			continue
		}
		mp := container.MountPoint{
			Type: p.Type, Name: p.Name, Source: p.Source, Destination: p.Target, Mode: p.Mode, RW: !p.ReadOnly, Propagation: p.Propagation,
		}
		switch p.Type {
		case mount.TypeVolume:
			mp.Driver, mp.Source = "local", ""
			if v, err := m.deps.Volumes.Inspect(context.Background(), p.Name); err == nil {
				mp.Driver, mp.Source = v.Driver, path.Join(v.Mountpoint, p.Subpath)
			}
		case mount.TypeBind:
			orElse(&mp.Propagation, mount.PropagationRPrivate)
		case mount.TypeTmpfs, mount.TypeImage, mount.TypeNamedPipe, mount.TypeCluster:
		}
		out = append(out, mp)
	}
	return out
}

// hasPorts says whether the ports that rec exposes can be reached now: they are those of a network of containers.
func (rec *record) hasPorts() bool {
	mode := rec.HostConfig.NetworkMode
	return rec.Status.Up() && !mode.IsNone() && !mode.IsHost() && !mode.IsContainer()
}
