package report

import (
	"io"
	"strings"
)

// Keys of Answer.
const (
	KeyJSON    = "result.json"
	KeyText    = "result.txt"
	KeyStatus  = "result.statuscode" // of checks: "1" if there are findings
	KeyVersion = "version"
)

// Version is that of all documents here.
const Version = "1.0.0"

// Answer returns d as BuildKit's frontend answers a subrequest with it: as metadata of a result.
func Answer(d Document) (map[string]string, error) {
	text, err := JSON(d)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	out := map[string]string{KeyJSON: string(text), KeyVersion: Version}
	f, checks := d.(*Findings)
	if checks {
		err = f.printWarnings(&b, "")
		out[KeyStatus] = "0"
		if f.Failed() {
			out[KeyStatus] = "1"
		}
	} else {
		err = d.Print(&b, "")
	}
	out[KeyText] = b.String()
	return out, err
}

// printWarnings writes the warnings without a word of how many they are.
func (f *Findings) printWarnings(w io.Writer, file string) error {
	p := printer{w: w}
	for _, v := range f.sorted() {
		p.printf("\nWARNING: %s", v.RuleName)
		if v.URL != "" {
			p.printf(" - %s", v.URL)
		}
		p.printf("\n%s\n", v.Detail)
		f.quote(&p, v.Location, file)
	}
	return p.err
}
