package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"strconv"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/boxbuild/boxbuild/solver/op"
)

// mounts applies RUN --mount.
func (st *state) mounts(c command, ic *instructions.RunCommand, r *runStep) error {
	agents := 0
	for i, m := range instructions.GetMounts(ic) {
		if err := st.t.budget.spend(1000); err != nil {
			return err
		}
		var mount runMount
		var err error
		switch m.Type {
		case instructions.MountTypeSecret:
			err = secretMount(m, r)
			if err != nil {
				return err
			}
			continue
		case instructions.MountTypeSSH:
			mount, err = st.sshMount(m, r, agents)
			agents++
		case instructions.MountTypeTmpfs:
			mount.Type, mount.Tmpfs, mount.Input = op.MountTmpfs, m.SizeLimit, op.NoInput
			mount.ReadOnly = m.ReadOnly
			if path.Join("/", m.Source) != "/" {
				return fmt.Errorf("invalid source %q of a tmpfs mount: it is empty at first, and has no %[1]s", m.Source)
			}
			err = st.placeMount(&mount, m)
		default:
			mount, err = st.fileMount(m, c.from[i])
		}
		if err != nil {
			return err
		}
		mount.Output = op.NoOutput
		r.mounts = append(r.mounts, mount)
	}
	return nil
}

// fileMount is a bind or cache mount: of a stage, an image or the build context. A cache without from is empty at first.
func (st *state) fileMount(m *instructions.Mount, source *stage) (runMount, error) {
	mount := runMount{ExecMount: op.ExecMount{ReadOnly: m.ReadOnly}}
	src := path.Join("/", m.Source)
	switch {
	case m.From != "":
		if !source.expanded {
			return mount, fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", m.From, m.Target)
		}
		mount.from.stage = source
		source.use(src)
	case m.Type == instructions.MountTypeBind:
		if st.t.context == nil {
			return mount, errNoContext
		}
		mount.from.tree = st.t.context
		st.t.context.use(src)
	}
	if m.Type == instructions.MountTypeCache {
		mount.Type = op.MountCache
		id := m.CacheID
		if id == "" {
			id = path.Clean(m.Target)
		}
		mount.Cache.ID = st.t.req.BuildArgs["BUILDKIT_CACHE_MOUNT_NS"] + "/" + id
		switch m.CacheSharing {
		case instructions.MountSharingPrivate:
			mount.Cache.Sharing = op.SharingPrivate
		case instructions.MountSharingLocked:
			mount.Cache.Sharing = op.SharingLocked
		case instructions.MountSharingShared:
		}
	}
	if src != "/" {
		mount.Selector = src
	} else if m.UID != nil || m.GID != nil || m.Mode != nil {
		mount.owner = &op.Mkdir{
			Path: "/cache", Mode: uint32(number(m.Mode, 0o755)),
			Owner: &op.Owner{UID: int(number(m.UID, 0)), GID: int(number(m.GID, 0))},
		}
		mount.Selector = "/cache"
	}
	return mount, st.placeMount(&mount, m)
}

// placeMount sets the target.
func (st *state) placeMount(mount *runMount, m *instructions.Mount) error {
	mount.Dest = path.Clean(absolute(st.cwd(), m.Target))
	if mount.Dest == "/" {
		return fmt.Errorf("invalid mount target %q", mount.Dest)
	}
	return nil
}

// secretMount adds a secret as a file, in the environment, or both.
func secretMount(m *instructions.Mount, r *runStep) error {
	id, target := m.CacheID, m.Target
	if m.Source != "" {
		id = m.Source
	}
	if id == "" {
		if target == "" {
			return errors.New("one of source, target required")
		}
		id = path.Base(target)
	}
	if m.Env != nil {
		if *m.Env == "" {
			return fmt.Errorf("invalid mount of secret %q: env= names no variable", id)
		}
		r.secrets = append(r.secrets, op.SecretEnv{ID: id, Name: *m.Env, Optional: !m.Required})
	} else if target == "" {
		target = "/run/secrets/" + path.Base(id)
	}
	if target == "" {
		return nil
	}
	r.mounts = append(r.mounts, runMount{ExecMount: op.ExecMount{
		Input: op.NoInput, Output: op.NoOutput, Dest: target, Type: op.MountSecret,
		Secret: op.SecretMount{
			ID: id, UID: int(number(m.UID, 0)), GID: int(number(m.GID, 0)),
			Mode: uint32(number(m.Mode, 0o400)), Optional: !m.Required,
		},
	}})
	return nil
}

// sshMount is the n-th mount of an SSH agent. The first is the one that programs find by themselves.
func (st *state) sshMount(m *instructions.Mount, r *runStep, n int) (runMount, error) {
	if m.Source != "" {
		return runMount{}, errors.New("ssh does not support source")
	}
	id, target := m.CacheID, m.Target
	if id == "" {
		id = "default"
	}
	if target == "" {
		target = "/run/buildkit/ssh_agent." + strconv.Itoa(n)
	}
	if _, ok := st.vars.Get("SSH_AUTH_SOCK"); n == 0 && !ok {
		env := r.meta.Env
		r.meta.Env = append(env[:len(env):len(env)], "SSH_AUTH_SOCK="+target)
	}
	return runMount{ExecMount: op.ExecMount{
		Input: op.NoInput, Dest: target, Type: op.MountSSH,
		SSH: op.SSHMount{
			ID: id, UID: int(number(m.UID, 0)), GID: int(number(m.GID, 0)),
			Mode: uint32(number(m.Mode, 0o600)), Optional: !m.Required,
		},
	}}, nil
}

// number returns *p, or def if p is nil.
func number(p *uint64, def uint64) uint64 {
	if p != nil {
		return *p
	}
	return def
}
