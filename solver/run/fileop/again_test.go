package fileop

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/solver/op"
)

// A directory keeps its time if all that was copied to it is there already, and gets a new one if anything else is.
func TestCopyAgain(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		base := e.base(func(dir string) {
			files(t, "q/f=F", "q/other=F", "q/long=FF")(dir)
			later := old.Add(1)
			if err := errors.Join(os.Chtimes(dir+"/q/other", later, later), os.Chtimes(dir+"/q", old, old)); err != nil {
				t.Fatal(err)
			}
		})
		src := e.base(files(t, "f=F", "other=F", "long=F", "new=F"))
		again := op.FileAction{Copy: dockerfile("/f", "/q/")}
		for name, c := range map[string]struct {
			actions []op.FileAction
			kept    bool
		}{
			"the same file":            {[]op.FileAction{again}, true},
			"twice":                    {[]op.FileAction{again, again}, true},
			"by its name":              {[]op.FileAction{{Copy: dockerfile("/f", "/q/f")}}, true},
			"another time":             {[]op.FileAction{{Copy: dockerfile("/other", "/q/")}}, false},
			"another size":             {[]op.FileAction{{Copy: dockerfile("/long", "/q/")}}, false},
			"another mode":             {[]op.FileAction{{Copy: with(dockerfile("/f", "/q/"), func(c *op.Copy) { c.Mode, c.ModeSet = 0o600, true })}}, false},
			"a new one, then the same": {[]op.FileAction{{Copy: dockerfile("/new", "/q/")}, again}, false},
			"the same, then a new one": {[]op.FileAction{again, {Copy: dockerfile("/new", "/q/")}}, false},
		} {
			got := e.must(base, src, c.actions...)
			dir := ""
			for line := range strings.Lines(got) {
				if strings.HasPrefix(line, `"q" `) {
					dir = line
				}
			}
			if dir == "" || strings.Contains(dir, at) != c.kept {
				t.Errorf("%s: the time is kept: want %t; got\n%s", name, c.kept, got)
			}
		}
	})
}
