package engine

import (
	"errors"
	"io"
	"strings"

	"github.com/boxbuild/boxbuild/worker"
)

// errDetached is the end of a keyReader whose user has typed the keys.
var errDetached = errors.New("detached")

// defaultKeys are ctrl-p and ctrl-q.
var defaultKeys = []byte{16, 17}

// parseKeys reads a sequence of keys as docker writes it: "ctrl-p,ctrl-q", "a,b". An empty one is the default.
func parseKeys(s string) ([]byte, error) {
	if s == "" {
		return defaultKeys, nil
	}
	var keys []byte
	for key := range strings.SplitSeq(s, ",") {
		name, ctrl := strings.CutPrefix(strings.ToLower(key), "ctrl-")
		switch {
		case !ctrl && len(key) == 1:
			keys = append(keys, key[0])
		case !ctrl && key == "DEL":
			keys = append(keys, 127)
		case ctrl && len(name) == 1 && name[0] >= 'a' && name[0] <= 'z':
			keys = append(keys, name[0]-'a'+1)
		case ctrl && len(name) == 1 && strings.Contains(controls, name):
			keys = append(keys, byte(strings.Index(controls, name))+firstControl)
		default:
			return nil, worker.Invalidf("invalid detach keys (%s) provided: unknown character: '%s'", s, key)
		}
	}
	return keys, nil
}

// controls are what beside letters makes a control character with ctrl, in order; ctrl-@ is 0.
const (
	controls     = "[\\]^_"
	firstControl = 27
)

// A keyReader passes on what it reads until keys have come in a row: then the error is errDetached. What begins like them is
// held back until it is clear that it goes on otherwise.
type keyReader struct {
	r    io.Reader
	keys []byte

	matched int    // of keys
	ready   []byte // to be passed on
	err     error  // after ready
}

// Read implements io.Reader.
func (k *keyReader) Read(p []byte) (int, error) {
	for len(k.ready) == 0 && k.err == nil && len(p) > 0 {
		n, err := k.r.Read(p)
		k.take(p[:n])
		if k.err == nil && err != nil {
			k.err = err
			k.ready = append(k.ready, k.keys[:k.matched]...)
			k.matched = 0
		}
	}
	n := copy(p, k.ready)
	k.ready = k.ready[n:]
	if len(k.ready) == 0 && n == 0 {
		return 0, k.err
	}
	return n, nil
}

// take looks at what was read.
func (k *keyReader) take(b []byte) {
	out := make([]byte, 0, len(b)+k.matched)
	for _, c := range b {
		if c == k.keys[k.matched] {
			if k.matched++; k.matched == len(k.keys) {
				k.ready, k.err = out, errDetached
				return
			}
			continue
		}
		// What was held back may itself end in the beginning of the keys.
		held := append(append([]byte(nil), k.keys[:k.matched]...), c)
		k.matched = 0
		for n := len(held) - 1; n > 0; n-- {
			if string(held[len(held)-n:]) == string(k.keys[:n]) {
				k.matched = n
				break
			}
		}
		out = append(out, held[:len(held)-k.matched]...)
	}
	k.ready = out
}
