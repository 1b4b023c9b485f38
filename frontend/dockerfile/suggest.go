package dockerfile

import (
	"fmt"
	"strings"

	"github.com/agext/levenshtein"
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
		if d := levenshtein.Distance(word, o, nil); d < dist {
			best, dist = o, d
		}
	}
	return best
}

// suggest is the function for warnings, which must not take long however many there are.
func (t *translation) suggest(word string, options []string) string {
	if t.lintsLeft -= len(options); t.lintsLeft < 0 {
		return ""
	}
	return suggest(word, options)
}

// didYouMean adds a suggestion to err, if there is one.
func didYouMean(err error, word string, options []string) error {
	if s := suggest(word, options); s != "" {
		return fmt.Errorf("%w (did you mean %s?)", err, s)
	}
	return err
}

// commonImages are names that are often misspelt.
func commonImages() []string {
	var out []string
	for name := range strings.FieldsSeq("alpine busybox centos debian golang ubuntu fedora") {
		out = append(out, name, name+":latest")
	}
	return out
}
