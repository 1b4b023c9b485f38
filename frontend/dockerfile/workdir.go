package dockerfile

import (
	"path"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"github.com/boxbuild/boxbuild/solver/op"
)

// workdir applies WORKDIR. The directory is made, for the user that is set, unless it is the root.
func (st *state) workdir(c command, ic *instructions.WorkdirCommand) error {
	if given, err := unixPath(st.platform.OS, ic.Path); !st.workdirSet && (err != nil || !path.IsAbs(given)) {
		rule := &linter.RuleWorkdirRelativePath
		st.lint.Run(rule, ic.Location(), rule.Format(ic.Path))
	}
	st.workdirSet = true
	dir, err := st.setCwd(ic.Path)
	if err != nil {
		return err
	}
	if dir == "/" {
		return st.record("WORKDIR /", false)
	}
	m := &mkdirStep{dir: op.Mkdir{
		Path: path.Clean(dir), Mode: 0o755, Parents: true, Owner: parseOwner(st.img.Config.User),
	}}
	if st.t.epoch != nil {
		m.dir.Time = *st.t.epoch
	}
	m.source = ranges(ic.Location())
	m.name = st.number(c, st.shown(st.t.doc.lex, ic.String(), st.vars))
	if err := st.record("WORKDIR "+dir, true); err != nil {
		return err
	}
	return st.addStep(m, 500)
}
