package container

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/boxbuild/boxbuild/worker"
)

// nameRule is docker's for the names of containers.
var nameRule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// find returns the container that a user means: by ID, by name, or by a beginning of the ID that no other has.
func (m *Manager) find(ref string) (*ctr, error) {
	if ref == "" {
		return nil, worker.Invalidf("No container name or ID supplied")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.findLocked(ref)
}

func (m *Manager) findLocked(ref string) (*ctr, error) {
	if c := m.byID[ref]; c != nil {
		return c, nil
	}
	if c := m.byName[strings.TrimPrefix(ref, "/")]; c != nil {
		return c, nil
	}
	var found *ctr
	for id, c := range m.byID {
		if !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, worker.Invalidf("multiple IDs found with provided prefix: %s", ref)
		}
		found = c
	}
	if found == nil {
		return nil, noSuch(ref)
	}
	return found, nil
}

func noSuch(ref string) error { return worker.NotFoundf("No such container: %s", ref) }

func notRunning(id string) error { return worker.Conflictf("container %s is not running", id) }

func isPaused(id string) error {
	return worker.Conflictf("Container %s is paused, unpause the container before exec", id)
}

func isRestarting(id string) error {
	return worker.Conflictf("Container %s is restarting, wait until the container is running", id)
}

func notModified(format string, args ...any) error {
	return worker.Errorf(errdefs.ErrNotModified, format, args...)
}

// newID returns 64 hex digits. One whose first twelve are decimal digits could be taken for a number, and is not used.
func newID() string {
	for {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails
		id := hex.EncodeToString(b[:])
		if strings.ContainsAny(id[:12], "abcdef") {
			return id
		}
	}
}

// enter puts a container into the tables; its name is made up if it has none.
func (m *Manager) enter(c *ctr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return worker.Errorf(errdefs.ErrUnavailable, "%v", errClosing)
	}
	rec := c.get()
	name := rec.Name
	if name == "" {
		name = m.newNameLocked(rec.ID)
		c.change(func(rec *record) { rec.Name = name })
	}
	if err := m.nameFreeLocked(name); err != nil {
		return err
	}
	m.byID[c.id], m.byName[name] = c, c
	return nil
}

func (m *Manager) nameFreeLocked(name string) error {
	if other := m.byName[name]; other != nil {
		return worker.Conflictf("Conflict. The container name %q is already in use by container %q. You have to remove (or rename) "+
			"that container to be able to reuse that name.", "/"+name, other.id)
	}
	return nil
}

// leave takes a container out of the tables.
func (m *Manager) leave(c *ctr) {
	name := c.get().Name
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byID, c.id)
	if m.byName[name] == c {
		delete(m.byName, name)
	}
}

func checkName(name string) error {
	if !nameRule.MatchString(name) {
		return worker.Invalidf("Invalid container name (%s), only %s are allowed", name, "[a-zA-Z0-9][a-zA-Z0-9_.-]")
	}
	return nil
}
