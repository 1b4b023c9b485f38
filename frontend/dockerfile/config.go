package dockerfile

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/sys/signal"

	"github.com/boxbuild/boxbuild/frontend/dockerfile/lint"
)

// configure applies the instructions that change nothing but the configuration.
func (st *state) configure(ic instructions.Command) error {
	c := &st.img.Config
	switch ic := ic.(type) {
	case *instructions.EnvCommand:
		return st.env(ic)
	case *instructions.LabelCommand:
		return st.label(ic)
	case *instructions.CmdCommand:
		st.cmd.Use(ic, st.lint)
		c.Cmd = st.commandLine(ic, ic.ShellDependantCmdLine)
		c.ArgsEscaped = true //nolint:staticcheck // deprecated, but what BuildKit writes
		return st.record(fmt.Sprintf("CMD %q", c.Cmd), false)
	case *instructions.EntrypointCommand:
		st.entrypoint.Use(ic, st.lint)
		c.Entrypoint = st.commandLine(ic, ic.ShellDependantCmdLine)
		if !st.cmd.Set() {
			c.Cmd = nil // one of the base's was meant for the base's entry point
		}
		return st.record(fmt.Sprintf("ENTRYPOINT %q", c.Entrypoint), false)
	case *instructions.HealthCheckCommand:
		st.healthy.Use(ic, st.lint)
		h := dockerspec.HealthcheckConfig(*ic.Health)
		c.Healthcheck = &h
		return st.record(fmt.Sprintf("HEALTHCHECK %+v", h), false)
	case *instructions.ExposeCommand:
		return st.expose(ic)
	case *instructions.UserCommand:
		c.User = ic.User
		return st.record("USER "+ic.User, false)
	case *instructions.VolumeCommand:
		return st.volume(ic)
	case *instructions.StopSignalCommand:
		if _, err := signal.ParseSignal(ic.Signal); err != nil {
			return err
		}
		c.StopSignal = ic.Signal
		return st.record("STOPSIGNAL "+ic.Signal, false)
	case *instructions.ShellCommand:
		c.Shell = ic.Shell
		return st.record(fmt.Sprintf("SHELL %v", ic.Shell), false)
	case *instructions.MaintainerCommand:
		st.img.Author = ic.Maintainer
		return st.record("MAINTAINER "+ic.Maintainer, false)
	case *instructions.OnbuildCommand:
		c.OnBuild = append(c.OnBuild, ic.Expression)
		return nil // BuildKit writes no history for it
	}
	return fmt.Errorf("instruction %s is not supported", strings.ToUpper(ic.Name()))
}

func (st *state) env(ic *instructions.EnvCommand) error {
	var text strings.Builder
	text.WriteString("ENV")
	for i := range ic.Env {
		e := &ic.Env[i]
		st.lintDelimiter(ic.Name(), e.NoDelim, ic)
		lint.SecretName("ENV", e.Key, ic.Location(), st.lint)
		text.WriteString(" " + e.String())
		if err := st.t.budget.spend(300 + 3*len(e.Key) + 3*len(e.Value)); err != nil {
			return err
		}
		if err := st.vars.put(e.Key, e.Value); err != nil {
			return err
		}
		st.setEnv(e.Key, e.Value)
	}
	return st.record(text.String(), false)
}

// setEnv sets a variable in the environment of the configuration, where it keeps its place.
func (st *state) setEnv(name, value string) {
	c := &st.img.Config
	if st.envShared {
		c.Env = slices.Clone(c.Env)
		st.envShared = false
	}
	if i, ok := st.envAt[name]; ok {
		c.Env[i] = name + "=" + value
		return
	}
	st.envAt[name] = len(c.Env)
	c.Env = append(c.Env, name+"="+value)
}

func (st *state) label(ic *instructions.LabelCommand) error {
	c := &st.img.Config
	if c.Labels == nil {
		c.Labels = make(map[string]string, len(ic.Labels))
	}
	var text strings.Builder
	text.WriteString("LABEL")
	for i := range ic.Labels {
		l := &ic.Labels[i]
		st.lintDelimiter(ic.Name(), l.NoDelim, ic)
		text.WriteString(" " + l.String())
		if err := st.t.budget.spend(150 + len(l.Key) + len(l.Value)); err != nil {
			return err
		}
		c.Labels[l.Key] = l.Value
	}
	return st.record(text.String(), false)
}

// lintDelimiter reports "ENV key value".
func (st *state) lintDelimiter(name string, noDelim bool, ic instructions.Command) {
	if noDelim {
		rule := &linter.RuleLegacyKeyValueFormat
		st.lint.Run(rule, ic.Location(), rule.Format(name))
	}
}

func (st *state) volume(ic *instructions.VolumeCommand) error {
	c := &st.img.Config
	if c.Volumes == nil {
		c.Volumes = map[string]struct{}{}
	}
	for _, v := range ic.Volumes {
		if v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		if err := st.t.budget.spend(100 + len(v)); err != nil {
			return err
		}
		c.Volumes[v] = struct{}{}
	}
	return st.record(fmt.Sprintf("VOLUME %v", ic.Volumes), false)
}

// commandLine returns the arguments of CMD or ENTRYPOINT, with the shell before them in the shell form.
func (st *state) commandLine(ic instructions.Command, line instructions.ShellDependantCmdLine) []string {
	if !line.PrependShell {
		return line.CmdLine
	}
	if len(st.img.Config.Shell) == 0 {
		rule := &linter.RuleJSONArgsRecommended
		st.lint.Run(rule, ic.Location(), rule.Format(ic.Name()))
	}
	return st.withShell(line.CmdLine)
}

// withShell puts the shell before a command line.
func (st *state) withShell(args []string) []string {
	shell := st.img.Config.Shell
	switch {
	case len(shell) > 0:
	case st.img.OS == windows:
		shell = []string{"cmd", "/S", "/C"}
	default:
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clip(shell), strings.Join(args, " "))
}
