package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// ownFiles are the files in the directory of a container that it sees at another place.
var ownFiles = []struct{ name, target string }{
	{"hostname", "/etc/hostname"},
	{"hosts", "/etc/hosts"},
	{"resolv.conf", "/etc/resolv.conf"},
}

// writeFiles writes the container's own files for a run. Those that belong to the network are the ones of the container
// that is joined, where there is one.
func (c *ctr) writeFiles(rec *record, net *worker.NetworkSetup) error {
	content := map[string][]byte{"hosts": net.Hosts, "resolv.conf": net.ResolvConf}
	content["hostname"] = []byte(rec.Config.Hostname + "\n")
	for _, f := range ownFiles {
		b := content[f.name]
		if b == nil && rec.HostConfig.NetworkMode.IsContainer() {
			continue
		}
		if b == nil {
			var err error
			if b, err = os.ReadFile(f.target); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("copying the host's %s: %w", f.target, err)
			}
		}
		// In place: a container that is run again must not keep what a mount of the last run held on to.
		if err := os.WriteFile(c.path(f.name), b, 0o644); err != nil {
			return fmt.Errorf("writing %s of the container: %w", f.name, err)
		}
	}
	return nil
}

// filePath is where one of ownFiles of rec is.
func (m *Manager) filePath(rec *record, name string) string {
	if name != "hostname" && rec.HostConfig.NetworkMode.IsContainer() {
		if c, err := m.find(rec.HostConfig.NetworkMode.ConnectedContainer()); err == nil {
			return c.path(name)
		}
	}
	return filepath.Join(m.dir(rec.ID), name)
}

// openFiles opens what the container sees of its own files, but where the user has mounted something else.
func (c *ctr) openFiles(rec *record) (mounts []executor.Mount, err error) {
	taken := make(map[string]bool, len(rec.Mounts))
	for _, p := range rec.Mounts {
		taken[p.Target] = true
	}
	for _, f := range ownFiles {
		if taken[f.target] {
			continue
		}
		file, err := os.Open(c.m.filePath(rec, f.name))
		if err != nil {
			return mounts, fmt.Errorf("opening %s of the container: %w", f.name, err)
		}
		mounts = append(mounts, executor.Mount{
			Target: f.target, Source: file, ReadOnly: rec.HostConfig.ReadonlyRootfs, Propagation: "rprivate",
		})
	}
	return mounts, nil
}
