package dockerfile

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/boxbuild/boxbuild/frontend/dockerfile/lint"
)

// args are the arguments that ARG has declared, each in its first place with its last value.
type args struct {
	list  []instructions.KeyValuePairOptional
	index map[string]int
}

func (a *args) add(kv instructions.KeyValuePairOptional) {
	if i, ok := a.index[kv.Key]; ok {
		a.list[i] = kv
		return
	}
	if a.index == nil {
		a.index = map[string]int{}
	}
	a.index[kv.Key] = len(a.list)
	a.list = append(a.list, kv)
}

func (a *args) has(name string) bool {
	_, ok := a.index[name]
	return ok
}

func (a *args) clone() args { return args{list: slices.Clone(a.list), index: maps.Clone(a.index)} }

func (a *args) size() int { return 100 * len(a.list) }

// arg applies ARG: a build argument goes before the default, and without either a global ARG gives the value.
func (st *state) arg(c *instructions.ArgCommand) error {
	var text strings.Builder
	text.WriteString("ARG")
	where := ranges(c.Location()) // once: it may be as long as the list
	for _, a := range c.Args {
		lint.SecretName("ARG", a.Key, c.Location(), st.lint)
		own := &definition{name: a.Key, description: a.DocComment, source: where}
		def := own
		if v, ok := st.t.req.BuildArgs[a.Key]; ok {
			a.Value = &v
		} else if a.Value != nil {
			v, err := st.word(st.t.doc.lex, *a.Value, c)
			if err != nil {
				return err
			}
			a.Value = &v
		} else if v, ok := st.t.globals.Get(a.Key); ok {
			a.Value, def = &v, st.t.defs[a.Key]
		}
		if def == own {
			own.value = a.ValueString()
		}
		if st.defs == nil {
			st.defs = map[string]*definition{}
		}
		st.defs[a.Key] = def
		text.WriteString(" " + a.Key)
		if a.Value != nil {
			text.WriteString("=" + *a.Value)
			if !neverEnv[a.Key] {
				if err := st.vars.put(a.Key, *a.Value); err != nil {
					return err
				}
			}
		}
		if err := st.t.budget.spend(500 + 2*len(a.Key) + len(a.ValueString())); err != nil {
			return err
		}
		st.args.add(a)
	}
	return st.record(text.String(), false)
}

// historyOfRun returns the history entry of a RUN: "RUN |2 a=1 b=2 /bin/sh -c … # buildkit".
func (st *state) historyOfRun(cmd []string) (string, error) {
	var b strings.Builder
	b.WriteString("RUN ")
	if n := len(st.args.list); n > 0 {
		b.WriteString("|" + strconv.Itoa(n) + " ")
	}
	for i := range st.args.list {
		a := &st.args.list[i]
		v, ok := st.vars.Get(a.Key)
		if !ok {
			v = a.ValueString()
		}
		b.WriteString(a.Key + "=" + v + " ")
		if b.Len() > maxWord {
			return "", errBudget
		}
	}
	b.WriteString(strings.Join(cmd, " ") + " # buildkit")
	return b.String(), nil
}
