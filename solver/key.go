package solver

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// A Key names a computation: an operation and everything that it consumes. It is asked-for, not got: two keys that
// differ may well yield the same bytes. Keys and Digests never compare.
type Key [sha256.Size]byte

// String returns the key in lower-case hex.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// Short returns the first twelve hex digits, enough for a log line.
func (k Key) Short() string { return hex.EncodeToString(k[:6]) }

// A Digest names bytes: the content that a Selector picks from a Result.
type Digest [sha256.Size]byte

// String returns the digest in lower-case hex, without an algorithm prefix.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// A Hasher writes a key as a document: one line a field, each readable by a person, and hashes that document. Field
// names and values are quoted where they need it, so no two different field lists have the same document. The document
// is kept, since it is what explains a cache miss later.
//
// The zero Hasher is ready for use. A Hasher is not safe for concurrent use.
type Hasher struct{ doc strings.Builder }

// Version starts the fields of one kind of operation. Raise v whenever the meaning of the fields, or the behaviour
// behind them, changes: old records are then never hit again.
func (h *Hasher) Version(kind string, v int) {
	h.doc.WriteString(kind)
	h.doc.WriteString(" v")
	h.doc.WriteString(strconv.Itoa(v))
	h.doc.WriteByte('\n')
}

// Str writes a string field.
func (h *Hasher) Str(name, value string) { h.line(name, strconv.Quote(value)) }

// Strs writes an ordered list of strings. An empty list and an absent one are the same.
func (h *Hasher) Strs(name string, values []string) {
	if len(values) == 0 {
		return
	}
	q := make([]string, len(values))
	for i, v := range values {
		q[i] = strconv.Quote(v)
	}
	h.line(name, "["+strings.Join(q, ",")+"]")
}

// Int writes an integer field.
func (h *Hasher) Int(name string, value int64) { h.line(name, strconv.FormatInt(value, 10)) }

// Bool writes a boolean field; false is written as an absent field, so that a new flag changes no old key.
func (h *Hasher) Bool(name string, value bool) {
	if value {
		h.line(name, "true")
	}
}

// Key writes a key as a field.
func (h *Hasher) Key(name string, k Key) { h.line(name, "key:"+k.String()) }

// Digest writes a digest as a field.
func (h *Hasher) Digest(name string, d Digest) { h.line(name, "sha256:"+d.String()) }

// Result writes the identity of a result as a field.
func (h *Hasher) Result(name string, r Result) { h.line(name, "result:"+strconv.Quote(string(r))) }

func (h *Hasher) line(name, value string) {
	h.doc.WriteString(name)
	h.doc.WriteByte('=')
	h.doc.WriteString(value)
	h.doc.WriteByte('\n')
}

// Document returns what has been written so far.
func (h *Hasher) Document() string { return h.doc.String() }

// Sum returns the key of the document.
func (h *Hasher) Sum() Key { return sha256.Sum256([]byte(h.doc.String())) }

// ParseKey reads what Key.String wrote.
func ParseKey(s string) (Key, error) {
	var k Key
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("parsing key %q: not %d hex digits", s, 2*len(k))
	}
	copy(k[:], b)
	return k, nil
}
