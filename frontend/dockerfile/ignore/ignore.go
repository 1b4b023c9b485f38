// Package ignore reads .dockerignore files: which patterns they hold and what those match. The syntax and its meaning
// are those of moby/patternmatcher, as with every other builder.
package ignore

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// maxFile and maxPatterns bound what is read: each pattern becomes a regular expression.
const (
	maxFile     = 1 << 20
	maxPatterns = 10_000
)

// Parse returns the patterns of a .dockerignore file, cleaned, in order. An error names the pattern that is wrong, so
// that a build fails before anything is transferred.
func Parse(text []byte) ([]string, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("the file has %d bytes; at most %d are allowed", len(text), maxFile)
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if len(patterns) > maxPatterns {
		return nil, fmt.Errorf("the file has %d patterns; at most %d are allowed", len(patterns), maxPatterns)
	}
	for _, p := range patterns {
		if path.Clean(strings.TrimSpace(p)) == "!" { // "!/" and "/ !" are the same to patternmatcher
			return nil, errors.New(`illegal exclusion pattern: "!"`)
		}
		if err := check(p); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", p, err)
		}
	}
	return patterns, nil
}

// check finds what is wrong with a pattern. What path.Match takes may still make a regular expression that is none; only
// characters that mean something in one can.
func check(p string) error {
	if _, err := path.Match(p, "."); err != nil {
		return err
	}
	if utf8.ValidString(p) && !strings.ContainsAny(p, `\[](){}+|^`) {
		return nil
	}
	patterns := []string{p}
	if strings.HasPrefix(p, "!") { // an exception is looked at only where something is excluded
		patterns = []string{"**", p}
	}
	m, err := New(patterns)
	if err != nil {
		return err
	}
	_, err = m.Excluded(".")
	return err
}

// A Matcher says which paths a list of patterns excludes. It is not safe for concurrent use.
type Matcher struct {
	pm *patternmatcher.PatternMatcher
}

// New compiles patterns, as Parse returned them.
func New(patterns []string) (*Matcher, error) {
	pm, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	return &Matcher{pm: pm}, nil
}

// Excluded says whether p, relative to the directory and slash-separated, or a directory above it is excluded.
func (m *Matcher) Excluded(p string) (bool, error) { return m.pm.MatchesOrParentMatches(p) }

// HasExceptions says whether a pattern brings something back. What is excluded can then not be told from a path alone.
func (m *Matcher) HasExceptions() bool { return m.pm.Exclusions() }

// ExcludesAll says whether a pattern excludes everything at the root.
func (m *Matcher) ExcludesAll() bool {
	for _, p := range m.pm.Patterns() {
		if p.Exclusion() {
			continue
		}
		switch p.String() {
		case "*", "**", "**/*":
			return true
		}
	}
	return false
}
