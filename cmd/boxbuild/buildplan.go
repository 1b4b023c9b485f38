package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// maxDockerfile bounds a Dockerfile from standard input, in bytes.
const maxDockerfile = 16 << 20

// A buildPlan is a build as the daemon is asked for it, and what the client does itself.
type buildPlan struct {
	request *boxbuildv1.BuildRequest
	outputs []clientOutput // parallel to request.Outputs
	secrets secretStore
	ssh     sshOffers
	upload  io.Reader // the context, if it is an archive from standard input
}

// checkTags refuses what cannot be the name of an image, before anything is read or built for it.
func checkTags(tags []string) error {
	for _, tag := range tags {
		named, err := reference.ParseNormalizedNamed(tag)
		if err != nil {
			return usagef("invalid argument %q for \"-t, --tag\" flag: %v", tag, err)
		}
		if _, ok := named.(reference.Digested); ok {
			return usagef("invalid argument %q for \"-t, --tag\" flag: refusing to create a tag with a digest reference", tag)
		}
	}
	return nil
}

// plan turns flags into a request. What it refuses is wrong whatever the daemon thinks.
func (a *app) plan(opt *buildOptions) (*buildPlan, error) {
	if err := checkTags(opt.tags); err != nil {
		return nil, err
	}
	req := &boxbuildv1.BuildRequest{Tags: opt.tags, Frontend: &boxbuildv1.Frontend{
		Target:        opt.target,
		NoCache:       opt.noCache,
		NoCacheStages: opt.noCacheFilter,
		Pull:          opt.pull,
		CgroupParent:  opt.cgroupParent,
		Entitlements:  entitlements(opt.allow),
		Limits:        opt.limits.wire(),
	}}
	front := req.Frontend
	switch opt.network {
	case "", "default", "none", "host":
		front.Network = opt.network
	default:
		return nil, usagef("unsupported network mode %q: default, none or host", opt.network)
	}
	if front.Network == "host" { // as buildx does
		front.Entitlements = append(front.Entitlements, "network.host")
	}
	var err error
	if front.BuildArgs, err = a.buildArgs(opt.buildArgs); err != nil {
		return nil, err
	}
	if front.Labels, err = labels(opt.labels); err != nil {
		return nil, err
	}
	for _, p := range opt.platforms {
		wire, err := parsePlatform(p)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(front.Platforms, func(o *boxbuildv1.Platform) bool { return proto.Equal(o, wire) }) {
			front.Platforms = append(front.Platforms, wire)
		}
	}
	if front.ExtraHosts, err = extraHosts(opt.addHosts); err != nil {
		return nil, err
	}
	if opt.shmSize != "" {
		if front.ShmSize, err = units.RAMInBytes(opt.shmSize); err != nil {
			return nil, usagef("invalid --shm-size %q: %v", opt.shmSize, err)
		}
	}
	if front.Ulimits, err = ulimits(opt.ulimits); err != nil {
		return nil, err
	}
	plan := &buildPlan{request: req}
	if err := a.planContexts(plan, opt); err != nil {
		return nil, err
	}
	if plan.secrets, err = a.secrets(opt.secrets); err != nil {
		return nil, err
	}
	if plan.ssh, err = a.sshOffers(opt); err != nil {
		return nil, err
	}
	if req.Call = opt.call.call; req.Call != boxbuildv1.Call_CALL_BUILD {
		return plan, nil // nothing is made
	}
	return plan, a.planOutputs(plan, opt)
}

// localDelete is buildx's leave to delete files of an output directory, which is the client's own to give.
const localDelete = "buildx.local.delete"

// entitlements are what --allow asks the daemon for.
func entitlements(flags []string) []string {
	return slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return f == "" || f == localDelete })
}

// planContexts sets where the context, the Dockerfile and the named contexts come from.
func (a *app) planContexts(plan *buildPlan, opt *buildOptions) error {
	req := plan.request
	front := req.Frontend
	switch {
	case opt.context == "-":
		if err := a.planStdin(plan, opt); err != nil {
			return err
		}
	case isRemote(opt.context):
		if err := a.planRemote(req, opt); err != nil {
			return err
		}
	default:
		dir, err := directory("context", opt.context)
		if err != nil {
			return fmt.Errorf("ERROR: failed to build: unable to prepare context: %w", err)
		}
		req.Directories = append(req.Directories, dir)
		front.Context = &boxbuildv1.Frontend_ContextDirectory{ContextDirectory: dir.Name}
		if err := a.planDockerfile(req, opt); err != nil {
			return err
		}
	}
	contexts, err := namedContexts(opt.contexts)
	if err != nil {
		return err
	}
	named := make(map[string]string, len(contexts))
	for _, c := range contexts {
		name, value := c.name, c.value
		named[name] = value
		if spec, ok := strings.CutPrefix(value, "oci-layout://"); ok {
			if named[name], err = a.planLayout(req, name, spec); err != nil {
				return err
			}
			continue
		}
		if (strings.HasPrefix(value, "git@") && isRemote(value)) || strings.Contains(value, "://") || strings.HasPrefix(value, "target:") {
			continue
		}
		dir, err := directory(name, value)
		if err != nil {
			return fmt.Errorf("ERROR: failed to build: unable to prepare context %s: %w", name, err)
		}
		req.Directories = append(req.Directories, dir)
		named[name] = "local:" + name
	}
	front.Contexts = named
	return nil
}

// planDockerfile finds the Dockerfile of a local context. A path is relative to the working directory, as in docker.
func (a *app) planDockerfile(req *boxbuildv1.BuildRequest, opt *buildOptions) error {
	front := req.Frontend
	path := opt.file
	switch {
	case isHTTP(path):
		front.Dockerfile = &boxbuildv1.Frontend_Text{Text: opt.fetched}
		return nil
	case path == "-":
		text, err := a.stdinDockerfile()
		if err != nil {
			return err
		}
		front.Dockerfile = &boxbuildv1.Frontend_Text{Text: text}
		return nil
	case path == "":
		path = filepath.Join(opt.context, "Dockerfile")
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if lower := filepath.Join(opt.context, "dockerfile"); exists(lower) {
				path = lower
			}
		}
	}
	if st, err := os.Stat(path); err != nil {
		return fmt.Errorf("ERROR: failed to build: failed to read dockerfile: open %s: no such file or directory", filepath.Base(path))
	} else if st.IsDir() {
		return fmt.Errorf("ERROR: failed to build: failed to read dockerfile: %s is a directory", path)
	} else if st.Size() > maxDockerfile {
		return fmt.Errorf("ERROR: failed to build: failed to read dockerfile: %s has %d bytes, more than the %d allowed", path, st.Size(), maxDockerfile)
	}
	dir, err := directory("dockerfile", filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("ERROR: failed to build: %w", err)
	}
	req.Directories = append(req.Directories, dir)
	front.Dockerfile = &boxbuildv1.Frontend_DockerfileDirectory{DockerfileDirectory: dir.Name}
	front.Filename = filepath.Base(path)
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// directory describes a directory so that the daemon knows it again.
func directory(name, path string) (*boxbuildv1.Directory, error) {
	if path == "" { // it is not the working directory, but a variable that is not set
		return nil, errors.New(`path "" not found`)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	switch err := unix.Stat(abs, &st); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("path %q not found", path)
	case err != nil:
		return nil, fmt.Errorf("path %q: %w", path, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil, fmt.Errorf("path %q is not a directory", path)
	}
	return &boxbuildv1.Directory{Name: name, Path: abs, Device: st.Dev, Inode: st.Ino}, nil
}

// parsePlatform reads os[/arch[/variant]], or "local" for the machine's own.
func parsePlatform(s string) (*boxbuildv1.Platform, error) {
	if s == "local" {
		s = platforms.DefaultString()
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return nil, usagef("invalid platform %q: %v", s, err)
	}
	p = platforms.Normalize(p)
	return &boxbuildv1.Platform{
		Os: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		OsVersion: p.OSVersion, OsFeatures: p.OSFeatures,
	}, nil
}
