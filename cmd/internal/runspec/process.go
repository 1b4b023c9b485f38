package runspec

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// process is the first process of the container: its streams, its environment and how it ends.
type process struct {
	attach, env, envFile, groups opts.ListOpts
	stdin, tty                   bool
	entrypoint, user, workdir    string
	stopSignal                   string
	stopTimeout                  int // seconds
	init                         bool
	umask                        opts.UmaskOpt
	restart                      string
	remove                       bool
}

func (p *process) register(fs *pflag.FlagSet) {
	p.attach = opts.NewListOpts(stream)
	p.env = opts.NewListOpts(opts.ValidateEnv)
	p.envFile, p.groups = opts.NewListOpts(nil), opts.NewListOpts(nil)
	fs.VarP(&p.attach, "attach", "a", "Attach to STDIN, STDOUT or STDERR")
	fs.VarP(&p.env, "env", "e", "Set environment variables")
	fs.Var(&p.envFile, "env-file", "Read in a file of environment variables")
	fs.StringVar(&p.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	fs.Var(&p.groups, "group-add", "Add additional groups to join")
	fs.BoolVarP(&p.stdin, "interactive", "i", false, "Keep STDIN open even if not attached")
	fs.BoolVarP(&p.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	fs.StringVarP(&p.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	fs.StringVarP(&p.workdir, "workdir", "w", "", "Working directory inside the container")
	fs.StringVar(&p.stopSignal, "stop-signal", "", "Signal to stop the container")
	fs.IntVar(&p.stopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
	fs.BoolVar(&p.init, "init", false, "Run an init inside the container that forwards signals and reaps processes")
	fs.Var(&p.umask, "umask", "Set umask for the container")
	fs.StringVar(&p.restart, "restart", "no", "Restart policy to apply when a container exits")
	fs.BoolVar(&p.remove, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
}

func (p *process) apply(req *container.CreateRequest, fs *pflag.FlagSet) error {
	c, h := req.Config, req.HostConfig
	c.AttachStdin = p.stdin || p.attach.Get("stdin")
	c.AttachStdout = p.attach.Len() == 0 || p.attach.Get("stdout")
	c.AttachStderr = p.attach.Len() == 0 || p.attach.Get("stderr")
	c.Tty, c.OpenStdin = p.tty, p.stdin
	// The input of who has attached ends when he leaves.
	c.StdinOnce = c.OpenStdin && c.AttachStdin
	var err error
	if c.Env, err = opts.ReadKVEnvStrings(p.envFile.GetSlice(), p.lastEnv()); err != nil {
		return fmt.Errorf("--env-file: %w", err)
	}
	switch {
	case p.entrypoint != "":
		c.Entrypoint = []string{p.entrypoint}
	case fs.Changed("entrypoint"):
		c.Entrypoint = []string{""} // none, not even the image's
	}
	c.User, c.WorkingDir, c.StopSignal = p.user, p.workdir, p.stopSignal
	if fs.Changed("stop-timeout") {
		c.StopTimeout = &p.stopTimeout
	}
	if fs.Changed("init") {
		h.Init = &p.init
	}
	h.GroupAdd, h.Umask, h.AutoRemove = p.groups.GetSlice(), p.umask.Value(), p.remove
	h.RestartPolicy, err = opts.ParseRestartPolicy(p.restart)
	return err
}

// lastEnv is --env with one value for each name, the last, where the name stood first.
func (p *process) lastEnv() []string {
	at := map[string]int{}
	var out []string
	for _, kv := range p.env.GetSlice() {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			out[i] = kv
			continue
		}
		at[name] = len(out)
		out = append(out, kv)
	}
	return out
}

// stream validates a value of --attach.
func stream(name string) (string, error) {
	if name = strings.ToLower(name); !slices.Contains([]string{"stdin", "stdout", "stderr"}, name) {
		return "", errors.New("valid streams are STDIN, STDOUT and STDERR")
	}
	return name, nil
}
