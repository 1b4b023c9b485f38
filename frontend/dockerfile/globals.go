package dockerfile

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/boxbuild/boxbuild/solver/op"
)

// neverEnv are arguments that are for the builder and never enter an environment.
var neverEnv = map[string]bool{"BUILDKIT_SBOM_SCAN_CONTEXT": true, "BUILDKIT_SBOM_SCAN_STAGE": true}

// bindGlobals fills the scope of FROM: the automatic platform arguments, then ARG before the first FROM in order.
func (t *translation) bindGlobals() error {
	auto, err := t.automatic()
	if err != nil {
		return err
	}
	t.lintDefaults(auto.clone())
	t.globals = auto
	t.defs, err = t.declare(t.globals, t.doc.globals, t.req.BuildArgs)
	return err
}

// automatic returns the platform arguments, which build arguments of the same names override.
func (t *translation) automatic() (*vars, error) {
	target := t.req.Target
	if target == "" {
		target = t.doc.stages[len(t.doc.stages)-1].Name
	}
	if target == "" {
		target = "default"
	}
	b, p := t.native, t.platform
	v := newVars()
	for _, kv := range [][2]string{
		{"BUILDPLATFORM", platforms.Format(b)},
		{"BUILDOS", b.OS},
		{"BUILDOSVERSION", b.OSVersion},
		{"BUILDARCH", b.Architecture},
		{"BUILDVARIANT", b.Variant},
		{"TARGETPLATFORM", platforms.FormatAll(p)},
		{"TARGETOS", p.OS},
		{"TARGETOSVERSION", p.OSVersion},
		{"TARGETARCH", p.Architecture},
		{"TARGETVARIANT", p.Variant},
		{"TARGETSTAGE", target},
	} {
		val := kv[1]
		if o, ok := t.req.BuildArgs[kv[0]]; ok {
			val = o
		}
		if err := v.put(kv[0], val); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// declare evaluates global ARGs in scope, each seeing those before it, and returns their definitions.
func (t *translation) declare(scope *vars, cmds []instructions.ArgCommand, args map[string]string) (map[string]*definition, error) {
	defs := map[string]*definition{}
	for i := range cmds {
		where := ranges(cmds[i].Location()) // once: it may be as long as the list
		for _, kv := range cmds[i].Args {
			def := &definition{name: kv.Key, description: kv.DocComment, source: where}
			val, ok := args[kv.Key]
			if !ok && kv.Value == nil {
				defs[kv.Key] = def
				continue
			}
			if !ok {
				m, err := t.word(*kv.Value, scope)
				if err != nil {
					return nil, at(err, cmds[i].Location())
				}
				val = m.Result
				def.deps = slices.Sorted(maps.Keys(m.Matched))
				if old := defs[kv.Key]; old != nil && slices.Contains(def.deps, kv.Key) {
					def.deps = append(def.deps, old.deps...) // it is made from what it was
				}
			}
			def.value = val
			defs[kv.Key] = def
			err := t.budget.spend(200 + len(val))
			if err == nil {
				err = scope.put(kv.Key, val)
			}
			if err != nil {
				return nil, at(err, cmds[i].Location())
			}
		}
	}
	return defs, nil
}

// lintDefaults checks that the bases' names are well-formed when no build argument is given. scope is used up.
func (t *translation) lintDefaults(scope *vars) {
	if _, err := t.declare(scope, t.doc.globals, nil); err != nil {
		return // reported when the arguments are evaluated in earnest
	}
	for i := range t.doc.stages {
		st := &t.doc.stages[i]
		m, err := t.word(st.BaseName, scope)
		if err != nil {
			return
		}
		if _, err := reference.ParseNormalizedNamed(m.Result); err != nil {
			rule := &linter.RuleInvalidDefaultArgInFrom
			t.doc.lint.Run(rule, st.Location, rule.Format(st.BaseName))
		}
	}
}

// word expands one word by the rules of the file.
func (t *translation) word(word string, scope *vars) (shell.ProcessWordResult, error) {
	return t.expandWith(t.doc.lex, word, scope)
}

// expandWith expands one word and accounts for the result.
func (t *translation) expandWith(lex *shell.Lex, word string, scope *vars) (shell.ProcessWordResult, error) {
	m := newMeter(scope, word)
	plain := plainPrefix(word)
	if plain == len(word) {
		return shell.ProcessWordResult{Result: word}, nil
	}
	res, err := lex.ProcessWordWithMatches(word[plain:], m)
	res.Result = word[:plain] + res.Result
	if err == nil {
		err = m.err(word)
	}
	if err == nil {
		err = t.budget.match(m.steps())
	}
	if err == nil && res.Result != word {
		err = t.budget.spend(len(res.Result))
	}
	return res, err
}

// plainPrefix returns how many bytes of a long word, whole lines, come out of an expansion as they went in: expansion takes
// ten times as much memory as they.
func plainPrefix(word string) int {
	const long = 4 << 10
	if len(word) < long || strings.HasPrefix(word, "\ufeff") || !utf8.ValidString(word) {
		return 0
	}
	i := strings.IndexAny(word, "$<\\'\"`\x00")
	if i < 0 {
		return len(word)
	}
	return strings.LastIndexByte(word[:i], '\n') + 1
}

// proxy returns the proxy settings among the build arguments, which reach every process but no key; nil without any.
func (t *translation) proxy() *op.ProxyEnv {
	var p op.ProxyEnv
	names := make([]string, 0, len(t.req.BuildArgs))
	for name := range t.req.BuildArgs {
		names = append(names, name)
	}
	slices.Sort(names) // so that of two spellings always the same one wins
	for _, name := range names {
		v := t.req.BuildArgs[name]
		switch strings.ToLower(name) {
		case "http_proxy":
			p.HTTP = v
		case "https_proxy":
			p.HTTPS = v
		case "ftp_proxy":
			p.FTP = v
		case "no_proxy":
			p.No = v
		case "all_proxy":
			p.All = v
		}
	}
	if p == (op.ProxyEnv{}) {
		return nil
	}
	return &p
}
