package container

import (
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

// joinsByID returns h with the containers whose namespaces are joined named by ID, so that it goes on to mean them when they are
// renamed and others get their names. One that there is not stays as the user wrote it, and h itself is returned if nothing changes.
func (m *Manager) joinsByID(h *container.HostConfig) *container.HostConfig {
	out := *h
	changed := false
	byID := func(mode string, joins bool) string {
		ref, ok := strings.CutPrefix(mode, "container:")
		if !joins || !ok {
			return mode
		}
		c, err := m.find(ref)
		if err != nil || c.id == ref {
			return mode
		}
		changed = true
		return "container:" + c.id
	}
	out.NetworkMode = container.NetworkMode(byID(string(h.NetworkMode), h.NetworkMode.IsContainer()))
	out.PidMode = container.PidMode(byID(string(h.PidMode), h.PidMode.IsContainer()))
	out.IpcMode = container.IpcMode(byID(string(h.IpcMode), h.IpcMode.IsContainer()))
	if !changed {
		return h
	}
	return &out
}

// A link is one of HostConfig.Links: the user's "name" or "name:alias", or what is kept of it, which has the ID for the name.
type link struct{ ref, alias string }

func parseLink(s string) link {
	ref, alias, _ := strings.Cut(s, ":")
	ref = trimSlash(ref)
	if i := strings.LastIndexByte(alias, '/'); i >= 0 {
		alias = alias[i+1:] // "/name:/own/alias" is how docker shows it
	}
	if alias == "" {
		alias = ref
	}
	return link{ref: ref, alias: alias}
}

// linksByID returns h with its links by ID. On networks that users make they are names only, and stay so.
func (m *Manager) linksByID(h *container.HostConfig) (*container.HostConfig, error) {
	if h.NetworkMode.IsUserDefined() || len(h.Links) == 0 {
		return h, nil
	}
	out := *h
	out.Links = make([]string, 0, len(h.Links))
	for _, s := range h.Links {
		l := parseLink(s)
		c, err := m.linked(l.ref)
		if err != nil {
			return nil, err
		}
		if c.get().HostConfig.NetworkMode.IsHost() {
			return nil, worker.Invalidf("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
		}
		out.Links = append(out.Links, c.id+":"+l.alias)
	}
	return &out, nil
}

// linked returns the container that a link to ref leads to: the one that has the network.
func (m *Manager) linked(ref string) (*ctr, error) {
	seen := make(map[string]bool)
	for {
		c, err := m.find(ref)
		if err != nil {
			return nil, worker.Invalidf("could not get container for %s: %v", ref, err) // "not found" would have clients pull the image
		}
		mode := c.get().HostConfig.NetworkMode
		if !mode.IsContainer() || seen[c.id] {
			return c, nil
		}
		seen[c.id] = true
		ref = mode.ConnectedContainer()
	}
}

// links returns the links of rec to containers that there still are, as "ID:alias", and the names of those: as in docker, a link
// ends with the container that it leads to.
func (m *Manager) links(rec *record) (links []string, names map[string]string) {
	for _, s := range rec.HostConfig.Links {
		l := parseLink(s)
		c, err := m.find(l.ref)
		if err != nil {
			continue
		}
		if names == nil {
			names = make(map[string]string, len(rec.HostConfig.Links))
		}
		links, names[c.id] = append(links, c.id+":"+l.alias), c.get().Name
	}
	return links, names
}

// shownHost is the HostConfig that inspect shows: its links with the names that the containers have now.
func (m *Manager) shownHost(rec *record) *container.HostConfig {
	if len(rec.HostConfig.Links) == 0 {
		return rec.HostConfig
	}
	out := *rec.HostConfig
	out.Links = nil
	if out.NetworkMode.IsUserDefined() {
		return &out // they are those of the endpoint
	}
	links, names := m.links(rec)
	for _, s := range links {
		l := parseLink(s)
		out.Links = append(out.Links, "/"+names[l.ref]+":/"+rec.Name+"/"+l.alias)
	}
	return &out
}

// nameByID has a container of before other containers were kept by ID mean those that have the names now.
func (m *Manager) nameByID(c *ctr) {
	old := c.get().HostConfig
	h := m.joinsByID(old)
	if byID, err := m.linksByID(h); err == nil { // else it is as it was, and looked up when it starts
		h = byID
	}
	if h != old {
		c.note(func(rec *record) { rec.HostConfig = h })
	}
}
