package dockerfile

import (
	"path"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"github.com/boxbuild/boxbuild/solver/op"
)

// workdir applies WORKDIR. The directory is made, for the user that is set, unless it is the root.
func (st *state) workdir(c command, ic *instructions.WorkdirCommand) error {
	if !st.workdirSet && !path.IsAbs(ic.Path) {
		rule := &linter.RuleWorkdirRelativePath
		st.lint.Run(rule, ic.Location(), rule.Format(ic.Path))
	}
	st.workdirSet = true
	cfg := &st.img.Config
	cfg.WorkingDir = absolute(cfg.WorkingDir, ic.Path)
	if cfg.WorkingDir == "/" {
		return st.record("WORKDIR /", false)
	}
	owner, err := parseOwner(cfg.User)
	if err != nil {
		return err
	}
	m := &mkdirStep{dir: op.Mkdir{
		Path: path.Clean(cfg.WorkingDir), Mode: 0o755, Parents: true, Owner: owner,
	}}
	if st.t.epoch != nil {
		m.dir.Time = *st.t.epoch
	}
	m.source = ranges(ic.Location())
	m.name = st.number(c, st.shown(st.t.doc.lex, ic.String(), st.vars))
	if err := st.record("WORKDIR "+cfg.WorkingDir, true); err != nil {
		return err
	}
	return st.addStep(m, 500)
}
