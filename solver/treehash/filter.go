package treehash

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
)

// A Filter decides by include and exclude patterns what of a tree is picked. A path is picked if an include pattern
// matches it or a directory above it, or if there are no include patterns, and if the exclude patterns don't match it.
// It is safe for concurrent use.
type Filter struct {
	include, exclude []string
	// incPrefix and excPrefix are the include patterns, and the exceptions of the exclude patterns, if all of them are
	// plain paths: then a directory that none of them leads through or into need not be read.
	incPrefix, excPrefix []string
	incPlain, excPlain   bool
	exceptions           bool // exclude has patterns that begin with "!"
	pool                 sync.Pool
}

// matchers are the pattern matchers of one user at a time, since they compile themselves on first use.
type matchers struct {
	include, exclude *patternmatcher.PatternMatcher
}

// A State carries what a Filter knows of a directory to what is in it. The zero State is that of the root.
type State struct{ include, exclude patternmatcher.MatchInfo }

// A Verdict is what a Filter says of a path.
type Verdict uint8

// The verdicts. A directory that is only walked is part of the result if something in it is.
const (
	Skip Verdict = iota // neither it nor, if it is a directory, anything in it
	Walk                // not itself, but a directory may have something in it that is
	Pick
)

// NewFilter compiles patterns, in the syntax of package patternmatcher. Without any patterns it returns nil, which is
// the filter that picks everything.
func NewFilter(include, exclude []string) (*Filter, error) {
	if len(include) == 0 && len(exclude) == 0 {
		return nil, nil
	}
	f := &Filter{include: include, exclude: exclude}
	m, err := f.compile()
	if err != nil {
		return nil, err
	}
	if m.include != nil {
		f.incPrefix, f.incPlain = prefixes(m.include, false)
	}
	if m.exclude != nil {
		f.exceptions = m.exclude.Exclusions()
		f.excPrefix, f.excPlain = prefixes(m.exclude, true)
	}
	f.pool.Put(m)
	return f, nil
}

func (f *Filter) compile() (*matchers, error) {
	m := &matchers{}
	var err error
	if len(f.include) > 0 {
		if m.include, err = patternmatcher.New(f.include); err != nil {
			return nil, fmt.Errorf("parsing include patterns %q: %w", f.include, err)
		}
	}
	if len(f.exclude) > 0 {
		if m.exclude, err = patternmatcher.New(f.exclude); err != nil {
			return nil, fmt.Errorf("parsing exclude patterns %q: %w", f.exclude, err)
		}
	}
	return m, nil
}

// prefixes returns the patterns that are exceptions, or those that are not, each with a trailing slash, and whether
// all of them are paths without wildcards.
func prefixes(pm *patternmatcher.PatternMatcher, exceptions bool) (out []string, plain bool) {
	for _, p := range pm.Patterns() {
		if p.Exclusion() != exceptions {
			continue
		}
		s := strings.TrimSuffix(strings.TrimSuffix(p.String(), "/**"), "/*")
		if strings.ContainsAny(s, `*[]?^\`) {
			return nil, false
		}
		out = append(out, s+"/")
	}
	return out, true
}

// Check says what becomes of the path rel, slash-separated and relative to the root of the walk, given the state of
// the directory that it is in, and returns the state for what is in it.
func (f *Filter) Check(rel string, parent State) (Verdict, State, error) {
	if f == nil {
		return Pick, State{}, nil
	}
	m, ok := f.pool.Get().(*matchers)
	if !ok {
		var err error
		if m, err = f.compile(); err != nil {
			return Skip, State{}, err
		}
	}
	defer f.pool.Put(m)
	var st State
	in, out := true, false
	var err error
	if m.include != nil {
		if in, st.include, err = m.include.MatchesUsingParentResults(rel, parent.include); err != nil {
			return Skip, st, fmt.Errorf("matching %q: %w", rel, err)
		}
	}
	if m.exclude != nil {
		if out, st.exclude, err = m.exclude.MatchesUsingParentResults(rel, parent.exclude); err != nil {
			return Skip, st, fmt.Errorf("matching %q: %w", rel, err)
		}
	}
	if in && !out {
		return Pick, st, nil
	}
	if !in && f.incPlain && !leads(rel, f.incPrefix) {
		return Skip, st, nil
	}
	if out && (!f.exceptions || f.excPlain && !leads(rel, f.excPrefix)) {
		return Skip, st, nil
	}
	return Walk, st, nil
}

// leads says whether one of the prefixes is below rel.
func leads(rel string, prefixes []string) bool {
	for _, p := range prefixes {
		if len(p) > len(rel) && p[len(rel)] == '/' && p[:len(rel)] == rel {
			return true
		}
	}
	return false
}

// HasWildcard says whether a path has characters that filepath.Match gives a meaning.
func HasWildcard(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// matchName is filepath.Match on a single name; a malformed pattern matches nothing, as in the reference.
func matchName(pattern, name string) bool {
	ok, err := filepath.Match(pattern, name)
	return ok && err == nil
}
