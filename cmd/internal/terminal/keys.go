package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrDetached ends the input of a stream whose user has pressed the keys that detach.
var ErrDetached = errors.New("detached")

// DefaultKeys are the keys that detach if the user has not chosen others: ctrl-p, ctrl-q.
var DefaultKeys = []byte{'p' - '`', 'q' - '`'}

// ParseKeys reads a sequence of keys as docker writes it: characters, and ctrl- with one of a–z @ [ \ ] ^ _, with commas
// between.
func ParseKeys(s string) ([]byte, error) {
	var out []byte
	for key := range strings.SplitSeq(s, ",") {
		control, isControl := strings.CutPrefix(strings.ToLower(key), "ctrl-")
		switch {
		case len(key) == 1:
			out = append(out, key[0])
		case !isControl || len(control) != 1:
			return nil, fmt.Errorf("unknown character: %q", key)
		case control[0] >= 'a' && control[0] <= 'z':
			out = append(out, control[0]-'`')
		case strings.Contains(`@[\]^_`, control):
			out = append(out, control[0]-'@')
		default:
			return nil, fmt.Errorf("unknown character: %q", key)
		}
	}
	return out, nil
}

// An escape reads from r until keys appear in it, which it keeps, and then answers ErrDetached. What may yet become the
// keys is held back.
type escape struct {
	r    io.Reader
	keys []byte
	held int    // how many of the keys have been seen last
	out  []byte // not yet read
	err  error  // after out
}

// Read implements io.Reader.
func (e *escape) Read(p []byte) (int, error) {
	for len(e.out) == 0 && e.err == nil {
		buf := make([]byte, max(len(p), 1))
		n, err := e.r.Read(buf)
		if e.scan(buf[:n]) {
			e.err = ErrDetached
		} else if err != nil {
			e.out, e.err = append(e.out, e.keys[:e.held]...), err // nothing comes after them
		}
	}
	n := copy(p, e.out)
	e.out = e.out[n:]
	if len(e.out) == 0 && e.err != nil && n == 0 {
		return 0, e.err
	}
	return n, nil
}

// scan sorts new input, and says whether the keys are in it.
func (e *escape) scan(in []byte) bool {
	for _, b := range in {
		seen := append(bytes.Clone(e.keys[:e.held]), b)
		// The longest end of what was seen that the keys begin with is held, what is before it is let through.
		e.held = min(len(seen), len(e.keys))
		for !bytes.HasSuffix(seen, e.keys[:e.held]) {
			e.held--
		}
		e.out = append(e.out, seen[:len(seen)-e.held]...)
		if e.held == len(e.keys) {
			return true
		}
	}
	return false
}
