package dockerfile

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// maxHeadJSON is up to what size a file is read as JSON at once, in bytes: what is made of it can be 50 times as large.
const maxHeadJSON = 64 << 10

// detectSyntax is parser.DetectSyntax, without making values of a long file that is JSON altogether.
func detectSyntax(text []byte) (ref, cmdline string, where []parser.Range, ok bool) {
	if len(text) <= maxHeadJSON {
		return parser.DetectSyntax(text)
	}
	head := append(slices.Clone(text[:maxHeadJSON]), "\n\x00"...) // which is not JSON
	if ref, cmdline, where, ok = parser.DetectSyntax(head); ok || len(text) > maxDense || !json.Valid(text) {
		return ref, cmdline, where, ok
	}
	if head = syntaxMember(text); head == nil {
		return "", "", nil, false
	}
	return parser.DetectSyntax(head)
}

// syntaxMember returns the object in text, which is valid, with the member "syntax" alone; nil if there is none that is a
// string.
func syntaxMember(text []byte) []byte {
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	var found []byte
	depth, isKey, wanted := 1, true, false
	for {
		t, err := dec.Token()
		if err != nil {
			return found
		}
		switch d, _ := t.(json.Delim); {
		case d == '{' || d == '[':
			if depth++; depth == 2 && wanted {
				found = nil
			}
			continue
		case d != 0:
			depth--
		}
		switch v, isString := t.(string); {
		case depth != 1:
		case isKey:
			isKey, wanted = false, v == "syntax"
		default: // a value, or the end of one
			isKey = true
			if _, end := t.(json.Delim); wanted && !end {
				if found = nil; isString {
					found, _ = json.Marshal(map[string]string{"syntax": v})
				}
			}
		}
	}
}
