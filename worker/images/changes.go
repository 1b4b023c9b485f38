package images

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/docker/go-connections/nat"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/sys/signal"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/worker"
)

// changeWords are the instructions that only change a config.
var changeWords = []string{
	"cmd", "entrypoint", "env", "expose", "healthcheck", "label", "onbuild", "stopsignal", "user", "volume", "workdir",
}

// An edit is a run of instructions that change a config.
type edit struct {
	to     *frontend.ImageConfig
	lex    *shell.Lex
	cmdSet bool // by one of them
}

// applyChanges applies lines of a Dockerfile to a config, which each may be several instructions, or a part of one.
func applyChanges(c *frontend.ImageConfig, changes []string) error {
	if len(changes) == 0 {
		return nil
	}
	ast, err := parser.Parse(strings.NewReader(strings.Join(changes, "\n")))
	if err != nil {
		return err
	}
	var cmds []instructions.Command
	for _, n := range ast.AST.Children {
		if !slices.Contains(changeWords, strings.ToLower(n.Value)) {
			return fmt.Errorf("%s is not a valid change command", n.Value)
		}
		cmd, err := instructions.ParseCommand(n)
		if err != nil {
			return err
		}
		cmds = append(cmds, cmd)
	}
	e := &edit{to: c, lex: shell.NewLex(ast.EscapeToken)}
	for _, cmd := range cmds {
		if err := e.apply(cmd); err != nil {
			return err
		}
	}
	return nil
}

// apply applies an instruction, whose variables are those of the config at this point.
func (e *edit) apply(cmd instructions.Command) error {
	env := shell.EnvsFromSlice(e.to.Config.Env)
	if ex, ok := cmd.(instructions.SupportsSingleWordExpansion); ok {
		if err := ex.Expand(func(word string) (string, error) {
			word, _, err := e.lex.ProcessWord(word, env)
			return word, err
		}); err != nil {
			return err
		}
	}
	conf := &e.to.Config
	switch cmd := cmd.(type) {
	case *instructions.CmdCommand:
		conf.Cmd = commandLine(cmd.ShellDependantCmdLine, conf.Shell)
		e.cmdSet = e.cmdSet || len(words(cmd.ShellDependantCmdLine)) > 0
	case *instructions.EntrypointCommand:
		conf.Entrypoint = commandLine(cmd.ShellDependantCmdLine, conf.Shell)
		if !e.cmdSet {
			conf.Cmd = nil // it went with another entrypoint
		}
	case *instructions.EnvCommand:
		for _, kv := range cmd.Env {
			conf.Env = setEnv(conf.Env, kv.Key, kv.Value)
		}
	case *instructions.LabelCommand:
		for _, kv := range cmd.Labels {
			set(&conf.Labels, kv.Key, kv.Value)
		}
	case *instructions.ExposeCommand:
		return e.expose(cmd.Ports, env)
	case *instructions.VolumeCommand:
		return e.volumes(cmd.Volumes)
	case *instructions.UserCommand:
		conf.User = cmd.User
	case *instructions.WorkdirCommand:
		if cmd.Path == "" {
			return errors.New("WORKDIR is given an empty path")
		}
		conf.WorkingDir = path.Join("/", conf.WorkingDir, cmd.Path)
		if path.IsAbs(cmd.Path) {
			conf.WorkingDir = path.Clean(cmd.Path)
		}
	case *instructions.OnbuildCommand:
		conf.OnBuild = append(conf.OnBuild, cmd.Expression)
	case *instructions.StopSignalCommand:
		if _, err := signal.ParseSignal(cmd.Signal); err != nil {
			return err
		}
		conf.StopSignal = cmd.Signal
	case *instructions.HealthCheckCommand:
		conf.Healthcheck = cmd.Health
	default:
		return fmt.Errorf("%s is not a valid change command", cmd.Name())
	}
	return nil
}

// expose adds ports; a variable may hold several.
func (e *edit) expose(words []string, env shell.EnvGetter) error {
	var specs []string
	for _, w := range words {
		more, err := e.lex.ProcessWords(w, env)
		if err != nil {
			return err
		}
		specs = append(specs, more...)
	}
	ports, _, err := nat.ParsePortSpecs(specs)
	if err != nil {
		return err
	}
	for p := range ports {
		set(&e.to.Config.ExposedPorts, string(p), struct{}{})
	}
	return nil
}

func (e *edit) volumes(paths []string) error {
	for _, p := range paths {
		if p == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		set(&e.to.Config.Volumes, p, struct{}{})
	}
	return nil
}

func set[V any](m *map[string]V, k string, v V) {
	if *m == nil {
		*m = make(map[string]V)
	}
	(*m)[k] = v
}

// commandLine returns a command line, with the shell of the config before one that is not in JSON.
func commandLine(l instructions.ShellDependantCmdLine, sh []string) []string {
	if !l.PrependShell {
		return slices.Clone(l.CmdLine)
	}
	if len(sh) == 0 {
		sh = []string{"/bin/sh", "-c"}
	}
	return slices.Concat(sh, words(l))
}

// words are those of a command line; an instruction without any is parsed as a line for the shell with nothing on it.
func words(l instructions.ShellDependantCmdLine) []string {
	if l.PrependShell && len(l.CmdLine) == 1 && l.CmdLine[0] == "" {
		return nil
	}
	return l.CmdLine
}

// setEnv returns env with a variable set. What env leads to may be another's, and is left as it is.
func setEnv(env []string, key, value string) []string {
	env = slices.Clone(env)
	for i, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

// ApplyChanges applies lines of a Dockerfile to a config. What cannot be applied is errdefs.ErrInvalidArgument.
func (s *Service) ApplyChanges(c *frontend.ImageConfig, changes []string) error {
	if err := applyChanges(c, changes); err != nil {
		return worker.Invalidf("%v", err)
	}
	return nil
}
