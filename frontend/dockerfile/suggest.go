package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	words "github.com/moby/buildkit/frontend/dockerfile/command"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// maxDistance is how many edits a suggestion is away at most.
const maxDistance = 2

// suggest returns the option that word is most likely a misspelling of, or "". An option that equals word means that
// the error is about something else, so there is nothing to suggest.
func suggest(word string, options []string) string {
	best, dist := "", maxDistance+1
	for _, o := range options {
		if o == word {
			return ""
		}
		d := levenshtein.Distance(word, o, nil)
		if d < dist || d == dist && sameLetters(word, o) && !sameLetters(word, best) {
			best, dist = o, d
		}
	}
	return best
}

// sameLetters says whether a is b in another order: letters that were swapped are the likeliest mistake.
func sameLetters(a, b string) bool {
	x, y := []byte(a), []byte(b)
	slices.Sort(x)
	slices.Sort(y)
	return bytes.Equal(x, y)
}

// suggest is the function for warnings, which must not take long however many there are.
func (t *translation) suggest(word string, options []string) string {
	if t.lintsLeft -= len(options); t.lintsLeft < 0 {
		return ""
	}
	return suggest(word, options)
}

// didYouMean adds a suggestion to err, if there is one. An option that differs by case only goes before all others, however
// long it is.
func didYouMean(err error, word string, options []string) error {
	s := suggest(word, options)
	for _, o := range options {
		if o != word && strings.EqualFold(o, word) {
			s = o
			break
		}
	}
	if s != "" {
		return fmt.Errorf("%w (did you mean %s?)", err, s)
	}
	return err
}

// unknownInstruction gives an error about an unknown instruction the suggestion that suggest makes: BuildKit's is any one
// of those that are equally far away, another one each time.
func unknownInstruction(err error) error {
	var u *instructions.UnknownInstructionError
	if !errors.As(err, &u) {
		return err
	}
	before, _, _ := strings.Cut(err.Error(), u.Error())
	plain := errors.New(before + u.Error())
	word := strings.ToLower(u.Instruction)
	s := suggest(word, slices.Sorted(maps.Keys(words.Commands)))
	if s != "" && word != u.Instruction && strings.ToUpper(word) == u.Instruction {
		s = strings.ToUpper(s)
	}
	if s != "" {
		plain = fmt.Errorf("%w (did you mean %s?)", plain, s)
	}
	var le *parser.LocationError
	if errors.As(err, &le) && len(le.Locations) > 0 {
		return parser.WithLocation(plain, le.Locations[0])
	}
	return plain
}

// commonImages are names that are often misspelt.
func commonImages() []string {
	var out []string
	for name := range strings.FieldsSeq("alpine busybox centos debian golang ubuntu fedora") {
		out = append(out, name, name+":latest")
	}
	return out
}
