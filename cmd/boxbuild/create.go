package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/boxbuild/boxbuild/cmd/internal/runspec"
	"github.com/boxbuild/boxbuild/cmd/internal/terminal"
)

// When an image is pulled before a container is made of it.
const (
	pullAlways  = "always"
	pullMissing = "missing"
	pullNever   = "never"
)

// createOptions are the flags that create and run share.
type createOptions struct {
	spec           runspec.Create
	name, platform string
	pull           string
	quiet          bool
	useSocket      bool
}

// register adds the flags; done is what the image is pulled before.
func (o *createOptions) register(a *app, fs *pflag.FlagSet, done string) {
	fs.SetInterspersed(false) // what follows the image is the command's
	fs.StringVar(&o.name, "name", "", "Assign a name to the container")
	fs.StringVar(&o.platform, "platform", a.env.Getenv("DOCKER_DEFAULT_PLATFORM"), "Set platform if server is multi-platform capable")
	fs.StringVar(&o.pull, "pull", pullMissing, fmt.Sprintf("Pull image before %s (%q, %q, %q)", done, pullAlways, pullMissing, pullNever))
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the pull output")
	fs.BoolVar(&o.useSocket, "use-api-socket", false, "Bind mount Docker API socket and required auth")
	fs.Bool("help", false, "Print usage") // without -h, which is the host's name
	o.spec.Register(fs)
}

func (a *app) createCommand() *cobra.Command {
	var opt createOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a new container",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := a.request(cmd, &opt, args)
			if err != nil {
				return err
			}
			id, err := a.create(cmd.Context(), &opt, req)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, id)
			return nil
		},
	}
	opt.register(a, cmd.Flags(), "creating")
	return cmd
}

// request makes the request of the command line. What is wrong with that is told with the name of the command.
func (a *app) request(cmd *cobra.Command, opt *createOptions, args []string) (*container.CreateRequest, error) {
	fail := func(err error) error { return runError(cmd.Name(), err, exitFlags) }
	if !slices.Contains([]string{pullAlways, pullMissing, pullNever, ""}, opt.pull) {
		return nil, fail(fmt.Errorf("invalid pull option: '%s': must be one of %q, %q or %q", opt.pull, pullAlways, pullMissing, pullNever))
	}
	req, err := opt.spec.Request(cmd.Flags(), args[0], args[1:])
	if err != nil {
		return nil, fail(err)
	}
	return req, nil
}

// runError is an error of run or create, in docker's words.
func runError(command string, err error, code int) error {
	return statusError{code, fmt.Sprintf("boxbuild: %v\n\nRun 'boxbuild %s --help' for more information", err, command)}
}

// create makes the container, pulling its image as the user wants, and returns its ID.
func (a *app) create(ctx context.Context, opt *createOptions, req *container.CreateRequest) (string, error) {
	var platform *ocispec.Platform
	if opt.platform != "" {
		p, err := platforms.Parse(opt.platform)
		if err != nil {
			return "", err
		}
		platform = &p
	}
	if _, err := reference.ParseAnyReference(req.Image); err != nil {
		return "", err
	}
	if err := a.addProxies(opt, req); err != nil {
		return "", err
	}
	credentials, err := a.shareSocket(opt, req)
	if err != nil {
		return "", err
	}
	file, err := openCID(req.HostConfig.ContainerIDFile)
	if err != nil {
		return "", err
	}
	defer file.close()
	api, err := a.engine(ctx)
	if err != nil {
		return "", err
	}
	rows, cols := terminal.Size(a.stdout)
	req.HostConfig.ConsoleSize = [2]uint{rows, cols}
	resp, err := a.createPulling(ctx, opt, client.ContainerCreateOptions{
		Name: opt.name, Platform: platform, Config: req.Config, HostConfig: req.HostConfig, NetworkingConfig: req.NetworkingConfig,
	})
	if err != nil {
		return "", err
	}
	if credentials != nil {
		if _, err := api.CopyToContainer(ctx, resp.ID, client.CopyToContainerOptions{
			DestinationPath: "/", Content: bytes.NewReader(credentials),
		}); err != nil {
			resp.Warnings = append(resp.Warnings, fmt.Sprintf("injecting docker config.json into container failed: %v", err))
		}
	}
	for _, w := range resp.Warnings {
		fmt.Fprintln(a.stderr, "WARNING:", w)
	}
	return resp.ID, file.write(resp.ID)
}

// createPulling asks the daemon, once more after a pull if it does not have the image.
func (a *app) createPulling(ctx context.Context, opt *createOptions, req client.ContainerCreateOptions) (client.ContainerCreateResult, error) {
	image := req.Config.Image
	if opt.pull == pullAlways {
		if err := a.pullFor(ctx, opt, image); err != nil {
			return client.ContainerCreateResult{}, err
		}
	}
	resp, err := a.api.ContainerCreate(ctx, req)
	if err == nil || !notFound(err) || opt.pull != pullMissing {
		return resp, err
	}
	named, parseErr := reference.ParseNormalizedNamed(image)
	if parseErr != nil {
		return resp, err // an ID: there is nothing that could be pulled
	}
	if !opt.quiet {
		fmt.Fprintf(a.stderr, "Unable to find image '%s' locally\n", reference.FamiliarString(reference.TagNameOnly(named)))
	}
	if err := a.pullFor(ctx, opt, image); err != nil {
		return resp, err
	}
	return a.api.ContainerCreate(ctx, req)
}

// pullFor pulls an image for a container. Standard output is the container's.
func (a *app) pullFor(ctx context.Context, opt *createOptions, image string) error {
	out := *a
	out.stdout = a.stderr
	if opt.quiet {
		out.stdout = io.Discard
	}
	pull := transferOptions{ref: image, platform: opt.platform, quiet: opt.quiet, during: true}
	err := out.pull(ctx, &pull)
	a.conn = out.conn
	return err
}

// addProxies adds the variables that the user's docker configuration gives every container for this daemon.
func (a *app) addProxies(opt *createOptions, req *container.CreateRequest) error {
	file, err := loadDockerConfig()
	if err != nil {
		return err
	}
	if len(file.Proxies) == 0 {
		return nil
	}
	given := opt.spec.Env()
	var names []string
	all := file.ParseProxyConfig(a.cfg.Addr, opt.spec.Env())
	for name := range all {
		if _, ok := given[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if value := all[name]; value != nil {
			req.Env = append(req.Env, name+"="+*value)
		}
	}
	return nil
}

// A cidFile is the file that --cidfile names, in which the ID is written. It goes away if there is none.
type cidFile struct {
	f       *os.File
	written bool
}

// openCID makes the file, which must not be there; nil for no name.
func openCID(name string) (*cidFile, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	switch {
	case errors.Is(err, os.ErrExist):
		return nil, errors.New("container ID file found, make sure the other container isn't running or delete " + name)
	case err != nil:
		return nil, fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return &cidFile{f: f}, nil
}

func (c *cidFile) write(id string) error {
	if c == nil {
		return nil
	}
	if _, err := c.f.WriteString(strings.TrimSpace(id)); err != nil {
		return fmt.Errorf("failed to write the container ID (%s) to file: %w", id, err)
	}
	c.written = true
	return nil
}

func (c *cidFile) close() {
	if c == nil {
		return
	}
	_ = c.f.Close()
	if !c.written {
		_ = os.Remove(c.f.Name())
	}
}
