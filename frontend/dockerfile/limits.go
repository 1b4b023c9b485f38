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
	maxText   = 1 << 20   // bytes of a Dockerfile
	maxWords  = 100_000   // words in a Dockerfile; the parser makes a node of each
	maxSteps  = 10_000    // instructions in a Dockerfile; some are 2 KiB each
	maxNested = 100       // "${" inside one another; expansion recurses
	maxValue  = 128 << 10 // bytes of a variable: Linux passes no longer string to a process
	maxWord   = 1 << 20   // bytes that variables put into one word
	maxLints  = 1_000_000 // times that a pattern of .dockerignore is matched to warn of a source that is ignored

	budgetBytes = 24 << 20 // bytes of everything that a translation makes and keeps
)

var errBudget = fmt.Errorf("the Dockerfile expands to more than %d MiB", budgetBytes>>20)

// A budget bounds what a translation makes and keeps.
type budget struct{ left int }

// spend takes n bytes. It returns an error when there are not as many left.
func (b *budget) spend(n int) error {
	if b.left -= n; b.left < 0 {
		return errBudget
	}
	return nil
}

// checkText refuses a Dockerfile that parsing alone would need too much memory for.
func checkText(text []byte) error {
	if len(text) == 0 {
		return errors.New("the Dockerfile cannot be empty")
	}
	if len(text) > maxText {
		return fmt.Errorf("the Dockerfile has %d bytes; at most %d are allowed", len(text), maxText)
	}
	words, inWord := 0, false
	depth, line := 0, 1
	for i, c := range text {
		space := c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f'
		if !space && !inWord || c == ',' {
			words++
		}
		inWord = !space
		switch {
		case c == '\n':
			line++
		case c == '{' && i > 0 && text[i-1] == '$':
			if depth++; depth > maxNested {
				return atLine(fmt.Errorf("variables are nested more than %d deep", maxNested), line)
			}
		case c == '}' && depth > 0:
			depth--
		}
	}
	if words > maxWords {
		return fmt.Errorf("the Dockerfile has %d words; at most %d are allowed", words, maxWords)
	}
	return nil
}

// replacementCap returns how many bytes of variables may be expanded in word such that the result cannot be longer than
// 16 MiB: "${a//?/$b}" multiplies the lengths of a and b, and can be nested.
func replacementCap(word string) int {
	depth, deepest := 0, 0
	slashes := false
	for i := range len(word) {
		switch {
		case word[i] == '{' && i > 0 && word[i-1] == '$':
			depth++
		case word[i] == '}' && depth > 0:
			depth--
		case word[i] == '/' && i > 0 && word[i-1] == '/' && depth > 0:
			slashes = true
			deepest = max(deepest, depth)
		}
	}
	if !slashes {
		return maxWord
	}
	const most = 16 << 20
	literal := math.Pow(most/float64(len(word)), 1/float64(deepest))
	nested := math.Pow(most, 1/float64(deepest+1))
	return int(min(literal, nested))
}

// A meter is an environment that gives out a limited number of bytes. Once it has given them out, over is set and
// every variable is empty.
type meter struct {
	*vars
	left int
	over bool
}

func newMeter(v *vars, word string) *meter { return &meter{vars: v, left: replacementCap(word)} }

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
