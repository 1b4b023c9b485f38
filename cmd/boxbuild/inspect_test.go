package main

import (
	"bytes"
	"testing"
)

// What an object has is printed as it is, in either form: no character is written as a number that need not be, and no
// number is written anew.
func TestPrintInspected(t *testing.T) {
	raw, err := plainJSON(map[string]string{"Cmd": `a && b <c >d é "q"`})
	if err != nil {
		t.Fatal(err)
	}
	found := []*inspected{{raw: raw}, {raw: []byte(`{"Size": 1234567890123456789, "Cmd": "&"}`)}}
	for _, tt := range []struct {
		format string
		found  []*inspected
		want   string
	}{
		{"json", found, `[{"Cmd":"a && b <c >d é \"q\""},{"Size":1234567890123456789,"Cmd":"&"}]` + "\n"},
		{"", found[:1], "[\n    {\n        \"Cmd\": \"a && b <c >d é \\\"q\\\"\"\n    }\n]\n"},
		{"", nil, "[]\n"},
		{"json", nil, "[]\n"},
	} {
		var out bytes.Buffer
		if err := printInspected(&out, nil, tt.format, tt.found); err != nil || out.String() != tt.want {
			t.Errorf("%q: got %s, %v; want %s", tt.format, &out, err, tt.want)
		}
	}
}
