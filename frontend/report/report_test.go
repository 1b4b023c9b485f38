package report

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func lines(first, last int) []Range {
	var out []Range
	for n := first; n <= last; n++ {
		out = append(out, Range{Start: Position{Line: n}, End: Position{Line: n}})
	}
	return out
}

// TestQuote checks which lines are shown: two around a single line, one around several, none that are not there.
func TestQuote(t *testing.T) {
	text := "a\nb\r\nc\nd\ne\nf\n"
	for _, c := range []struct {
		name   string
		ranges []Range
		want   string
	}{
		{"none", nil, ""},
		{"beyond", lines(9, 9), ""},
		{"unknown", lines(0, 0), ""},
		{"middle", lines(3, 3), "   1 |     a|   2 |     b|   3 | >>> c|   4 |     d|   5 |     e"},
		{"first", lines(1, 1), "   1 | >>> a|   2 |     b|   3 |     c"},
		{"last", lines(6, 6), "   4 |     d|   5 |     e|   6 | >>> f|   7 |     "},
		{"several", lines(3, 4), "   2 |     b|   3 | >>> c|   4 | >>> d|   5 |     e"},
		{"one range", []Range{{Position{Line: 3}, Position{Line: 4}}}, "   2 |     b|   3 | >>> c|   4 | >>> d|   5 |     e"},
		{"no end", []Range{{Start: Position{Line: 3}}}, "   1 |     a|   2 |     b|   3 | >>> c|   4 |     d|   5 |     e"},
		{"apart", append(lines(1, 1), lines(3, 3)...), "   1 | >>> a|   2 |     b|   3 | >>> c|   4 |     d"},
		{"past the end", []Range{{Position{Line: 6}, Position{Line: 20}}}, "   5 |     e|   6 | >>> f|   7 | >>> "},
	} {
		got := Quote("F", []byte(text), c.ranges)
		if c.want != "" {
			rule := "--------------------\n"
			body, ok := strings.CutPrefix(got, "F:")
			_, body, _ = strings.Cut(body, "\n"+rule)
			got = strings.ReplaceAll(strings.TrimSuffix(body, "\n"+rule), "\n", "|")
			if !ok {
				t.Errorf("%s: no file is named", c.name)
			}
		}
		if got != c.want {
			t.Errorf("%s: got\n%q\nwant\n%q", c.name, got, c.want)
		}
	}
}

// TestFindings checks the text for people and that what programs read comes back as it was.
func TestFindings(t *testing.T) {
	f := &Findings{
		Sources: []Source{{Filename: "Dockerfile", Data: []byte("FROM a\nRUN b\n"), Language: "Dockerfile"}},
		Warnings: []Warning{
			{RuleName: "B", URL: "https://b", Description: "about b", Detail: "b is wrong", Location: At(lines(2, 2))},
			{RuleName: "Y", Detail: "nowhere", Location: &Location{}},
			{RuleName: "A", Detail: "a is wrong", Location: At(lines(1, 1))},
			{RuleName: "X", Detail: "nowhere", Location: &Location{SourceIndex: -1}},
		},
		Error: &BuildError{Message: "all is wrong", Location: *At(lines(2, 2))},
	}
	text, err := JSON(f)
	if err != nil {
		t.Fatal(err)
	}
	var back Findings
	if err := Read(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f, &back); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	var b strings.Builder
	if err := f.Print(&b, "sub/Dockerfile"); err != nil {
		t.Fatal(err)
	}
	b.WriteString("==\n")
	if err := f.PrintError(&b, ""); err != nil {
		t.Fatal(err)
	}
	want := `Check complete, 4 warnings have been found!

WARNING: X
nowhere

WARNING: Y
nowhere

WARNING: A
a is wrong
sub/Dockerfile:1
--------------------
   1 | >>> FROM a
   2 |     RUN b
   3 |     
--------------------

WARNING: B - https://b
b is wrong
sub/Dockerfile:2
--------------------
   1 |     FROM a
   2 | >>> RUN b
   3 |     
--------------------
==
all is wrong
Dockerfile:2
--------------------
   1 |     FROM a
   2 | >>> RUN b
   3 |     
--------------------
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !f.Failed() || (&Findings{}).Failed() {
		t.Error("findings are a failure, no findings are none")
	}
	b.Reset()
	if err := (&Findings{}).Print(&b, ""); err != nil || b.String() != "Check complete, no warnings found.\n" {
		t.Errorf("nothing found: %q, %v", b.String(), err)
	}
}

// TestRead checks that a report which Print could not print is refused.
func TestRead(t *testing.T) {
	for _, text := range []string{
		`{`, `{"warnings":[{"ruleName":"A"}]}`, `{"warnings":[{"location":{}}]}`,
		`{"warnings":[{"location":{"sourceIndex":1}}],"sources":[{}]}`,
		`{"buildError":{"location":{}}}`, `{"buildError":{"location":{"sourceIndex":-1}},"sources":[{}]}`,
	} {
		if err := Read([]byte(text), &Findings{}); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

// TestTables checks the columns of outlines and targets.
func TestTables(t *testing.T) {
	for _, c := range []struct {
		doc  Document
		want string
	}{
		{&Outline{}, ""},
		{&Outline{Name: "app"}, "TARGET: app\n\n"},
		{
			&Outline{
				Description: "does it", Args: []Arg{{Name: "A", Value: "1"}, {Name: "LONGER", Value: "22", Description: "about it"}},
				Secrets: []Mount{{Name: "token", Required: true}, {Name: "s"}}, SSH: []Mount{{Name: "default"}},
			},
			"TARGET:      (default)\nDESCRIPTION: does it\n\nBUILD ARG   VALUE   DESCRIPTION\nA           1       \nLONGER      22      about it\n\n" +
				"SECRET   REQUIRED\ntoken    true\ns        \n\nSSH       REQUIRED\ndefault   \n\n",
		},
		{&Targets{}, "TARGET DESCRIPTION\n"},
		{
			&Targets{Targets: []Target{{Name: "a", Description: "first"}, {}, {Name: "last", Default: true}}},
			"TARGET         DESCRIPTION\na              first\n               \nlast (default) \n",
		},
		{&Targets{Targets: []Target{{Default: true}}}, "TARGET    DESCRIPTION\n(default) \n"},
	} {
		var b strings.Builder
		if err := c.doc.Print(&b, ""); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, b.String()); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if c.doc.Failed() {
			t.Errorf("%+v is a failure", c.doc)
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// TestPrintErrors checks that an error of the writer is not lost.
func TestPrintErrors(t *testing.T) {
	for _, d := range []Document{
		&Findings{}, &Outline{Name: "a"}, &Outline{Args: []Arg{{}}}, &Outline{SSH: []Mount{{}}}, &Outline{Secrets: []Mount{{}}}, &Targets{},
	} {
		if err := d.Print(fullDisk{}, ""); err == nil {
			t.Errorf("%T: no error", d)
		}
	}
}

// FuzzRead checks that whatever can be read can be printed.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"warnings":[{"ruleName":"A","location":{"ranges":[{"start":{"line":1},"end":{"line":2}}]}}],"sources":[{"data":"YQ=="}],"buildError":{"message":"m"}}`))
	f.Fuzz(func(_ *testing.T, text []byte) {
		for _, d := range []Document{&Findings{}, &Outline{}, &Targets{}} {
			if Read(text, d) != nil || !json.Valid(text) {
				continue
			}
			var b strings.Builder
			_ = d.Print(&b, "")
			if f, ok := d.(*Findings); ok && f.Error != nil {
				_ = f.PrintError(&b, "")
			}
		}
	})
}

// TestAnswer checks what BuildKit's clients are told: the document, its text, and for checks alone whether anything was
// found; the text of checks does not count them.
func TestAnswer(t *testing.T) {
	found := &Findings{
		Warnings: []Warning{{RuleName: "Rule", Detail: "it is odd", Location: &Location{Ranges: lines(2, 2)}}},
		Sources:  []Source{{Filename: "Dockerfile", Data: []byte("FROM a\nODD\n")}},
	}
	const quote = "Dockerfile:2\n--------------------\n   1 |     FROM a\n   2 | >>> ODD\n   3 |     \n--------------------\n"
	for _, tt := range []struct {
		doc          Document
		status, text string
	}{
		{found, "1", "\nWARNING: Rule\nit is odd\n" + quote},
		{&Findings{Error: &BuildError{Message: "broken", Location: Location{SourceIndex: -1}}}, "1", ""},
		{&Findings{}, "0", ""},
		{&Targets{Targets: []Target{{Name: "a", Default: true}}}, "", "TARGET      DESCRIPTION\na (default) \n"},
	} {
		got, err := Answer(tt.doc)
		status, has := got[KeyStatus]
		if err != nil || status != tt.status || has != (tt.status != "") || got[KeyText] != tt.text || got[KeyVersion] != "1.0.0" {
			t.Errorf("%+v: got %q, %v; want the text %q", tt.doc, got, err, tt.text)
		}
		want, err := JSON(tt.doc)
		if err != nil || got[KeyJSON] != string(want) {
			t.Errorf("%+v: got %s, want %s", tt.doc, got[KeyJSON], want)
		}
	}
}
