package logfile

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// encodeAttrs returns the member of a line that has the attributes, or nothing.
func encodeAttrs(attrs map[string]string) ([]byte, error) {
	if len(attrs) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(attrs)
	if err != nil {
		return nil, fmt.Errorf("encoding the attributes of the log: %w", err)
	}
	return append([]byte(`,"attrs":`), b...), nil
}

// appendJSON appends e in the format of Docker's driver json-file:
//
//	{"log":"text\n","stream":"stdout","attrs":{…},"time":"2006-01-02T15:04:05.999999999Z"}
//
// A part of a line has no newline in it.
func appendJSON(b []byte, e *entry, attrs []byte) []byte {
	b = append(b, `{"log":"`...)
	b = appendEscaped(b, e.text)
	if !e.partial {
		b = append(b, `\n`...)
	}
	b = append(b, `","stream":"`...)
	b = append(b, e.stream...)
	b = append(b, '"')
	b = append(b, attrs...)
	b = append(b, `,"time":"`...)
	b = append(b, e.stamp...)
	return append(b, "\"}\n"...)
}

const hex = "0123456789abcdef"

// plain are the bytes that stand for themselves in a JSON string; as encoding/json and Docker do, < > & are escaped.
var plain = func() (t [256]bool) {
	for c := byte(' '); c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

// appendEscaped appends s as the inside of a JSON string. Bytes that are no UTF-8 become U+FFFD.
func appendEscaped(b, s []byte) []byte {
	start := 0
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if plain[c] {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, `\n`...)
			case '\r':
				b = append(b, `\r`...)
			case '\t':
				b = append(b, `\t`...)
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, s[start:i]...)
			b = append(b, `\ufffd`...)
			start = i + n
		case r == '\u2028' || r == '\u2029':
			b = append(b, s[start:i]...)
			b = append(b, `\u202`...)
			b = append(b, hex[r&15])
			start = i + n
		}
		i += n
	}
	return append(b, s[start:]...)
}
