package dockerfile

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// A Dockerfile comes from anybody, and a few lines of it can ask for any amount of memory: variables that double
// themselves, nested expansions, replacements of replacements. The limits here keep a translation under 64 MiB; each is
// far above what a Dockerfile that could be built needs.
const (
	maxText   = 10 << 20  // bytes of a Dockerfile
	maxFile   = 16 << 20  // bytes of a file that is fetched to be read: what Env.ReadFile returns
	maxDense  = 4 << 20   // bytes of it that are neither comments nor long here-documents
	maxParsed = 40 << 20  // bytes that the parser may take for it: see sizes
	maxSteps  = 10_000    // instructions in a Dockerfile; some are 2 KiB each
	maxNested = 100       // "${" inside one another; expansion recurses
	maxValue  = 128 << 10 // bytes of a variable: Linux passes no longer string to a process
	maxWord   = 1 << 20   // bytes that variables put into one word
	maxWork   = 128 << 20 // steps of matching patterns in "${a#b}" and the like
	maxLints  = 1_000_000 // comparisons for warnings: patterns of .dockerignore with sources, names with names
	maxWarned = 1_000     // warnings
	maxQuoted = 100       // warnings that come with their lines, and lines of one
	maxPlaces = 10_000    // lines that a report names one by one

	budgetBytes = 24 << 20 // bytes of everything that a translation makes and keeps
)

var errBudget = fmt.Errorf("the Dockerfile expands to more than %d MiB", budgetBytes>>20)

// A budget bounds what a translation makes and keeps, and how long it matches patterns.
type budget struct {
	left int // bytes
	work int // steps that have been used up
}

// spend takes n bytes. It returns an error when there are not as many left.
func (b *budget) spend(n int) error {
	if b.left -= n; b.left < 0 {
		return errBudget
	}
	return nil
}

// match accounts for n steps of matching patterns; maxWork of them take a few seconds.
func (b *budget) match(n int) error {
	if b.work += n; b.work > maxWork {
		return errors.New("the patterns in the Dockerfile take too long to match")
	}
	return nil
}

// maxProduct bounds the length of a value times that of a pattern or replacement for it: the bytes of the result, and
// the steps of matching.
const maxProduct = 16 << 20

// patterns are what can multiply in a word: "${a//?/$b}" makes as many bytes as a and b have, multiplied.
type patterns struct {
	longest int  // bytes of the longest "${a#…}", "${a%…}" or "${a/…}"; 0 if there is none
	nested  int  // how many are inside one another
	vars    bool // variables are in one
}

// findPatterns looks for patterns in word. Where quotes and escapes make it unclear where one ends it goes on to the end.
func findPatterns(word string) patterns {
	type group struct {
		start int
		op    bool
		open  bool // it cannot be told where it ends
	}
	var p patterns
	var stack []group
	ops := 0
	end := func(g group, i int) {
		if !g.op {
			return
		}
		if ops--; g.open {
			i = len(word)
			p.vars = p.vars || strings.Contains(word[g.start+2:], "$")
		}
		p.longest = max(p.longest, i-g.start)
	}
	for i := 0; i < len(word); i++ {
		switch c := word[i]; {
		case c == '$' && i+1 < len(word) && word[i+1] == '{':
			p.vars = p.vars || ops > 0
			g := group{start: i, op: isPattern(word[i+2:])}
			if g.op {
				ops++
				p.nested = max(p.nested, ops)
			}
			stack = append(stack, g)
		case c == '$':
			p.vars = p.vars || ops > 0
		case c == '\'' || c == '"':
			for j := range stack {
				stack[j].open = true
			}
		case c == '}' && len(stack) > 0 && word[i-1] != '\\' && word[i-1] != '`':
			end(stack[len(stack)-1], i+1)
			stack = stack[:len(stack)-1]
		}
	}
	for i := range stack {
		end(stack[i], len(word))
	}
	return p
}

// isPattern says whether what follows "${" is a name and one of the operators that take a pattern.
func isPattern(s string) bool {
	rest := strings.TrimLeft(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
	if rest == s && s != "" {
		rest = s[1:] // "${@#…}"
	}
	return rest != "" && strings.ContainsRune("#%/", rune(rest[0]))
}

// limit returns how many bytes variables may put into the word.
func (p patterns) limit() int {
	switch {
	case p.longest == 0:
		return maxWord
	case !p.vars:
		return min(maxWord, maxProduct/p.longest)
	}
	literal := math.Pow(maxProduct/float64(p.longest), 1/float64(p.nested))
	nested := math.Pow(maxProduct, 1/float64(p.nested+1))
	return int(min(literal, nested))
}

// work returns about how many steps it takes when variables put n bytes into the word.
func (p patterns) work(n int) int {
	if p.longest == 0 {
		return 0
	}
	return n * (n + p.longest)
}

// A meter is an environment that gives out a limited number of bytes. Once it has given them out, over is set and
// every variable is empty.
type meter struct {
	*vars
	patterns patterns
	left     int
	over     bool
}

func newMeter(v *vars, word string) *meter {
	p := findPatterns(word)
	return &meter{vars: v, patterns: p, left: p.limit()}
}

// steps returns about how many steps the expansion took.
func (m *meter) steps() int { return m.patterns.work(m.patterns.limit() - m.left) }

// Get implements shell.EnvGetter.
func (m *meter) Get(name string) (string, bool) {
	v, ok := m.vars.Get(name)
	if len(v) > m.left {
		m.over = true
		return "", ok
	}
	m.left -= len(v)
	return v, ok
}

// err returns an error if the meter ran out over word.
func (m *meter) err(word string) error {
	if !m.over {
		return nil
	}
	if len(word) > 60 {
		word = strings.ToValidUTF8(word[:60], "") + "…"
	}
	return fmt.Errorf("failed to process %q: the result is too long", word)
}
