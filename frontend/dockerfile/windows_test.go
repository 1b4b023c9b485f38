package dockerfile

import (
	"path"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// TestUnixPath checks what becomes of paths for Windows, and that those for other systems stay as they are.
func TestUnixPath(t *testing.T) {
	for _, c := range []struct{ in, want, err string }{
		{`C:\app`, "/app", ""},
		{`c:/app/../x\`, "/x/", ""},
		{`C:app\b`, "app/b", ""},
		{`\`, "/", ""},
		{`C:\`, "/", ""},
		{`a\\b`, "a/b", ""},
		{``, ".", ""},
		{`C:`, "", "No relative path specified"},
		{`D:\x`, "", "not on the system drive (C:)"},
		{`\\host\share`, "", "UNC paths"},
		{`a:b`, "", "not on the system drive (C:)"},
	} {
		got, err := unixPath(windows, c.in)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("unixPath(%q) = %q, %v; want %q, %s", c.in, got, err, c.want, c.err)
		}
		if got, err := unixPath("linux", c.in); got != c.in || err != nil {
			t.Errorf("for Linux %q becomes %q, %v", c.in, got, err)
		}
	}
}

// FuzzUnixPath checks that no way of writing a path leads out of the root or leaves a backslash, and that the result is
// what a second reading makes of it. Each path that a configuration gets is also one that it can be read from again.
func FuzzUnixPath(f *testing.F) {
	f.Add(`C:\a\..\..\b`, `c:x`)
	f.Add(`\\?\C:\x`, `/a/./`)
	f.Fuzz(func(t *testing.T, dir, p string) {
		st := &state{platform: op.Platform{OS: windows}, img: frontend.ImageConfig{}}
		for _, p := range []string{dir, p} {
			at, err := st.setCwd(p)
			if err != nil {
				return
			}
			if !path.IsAbs(at) || path.Clean(at) != at || strings.Contains(at, `\`) {
				t.Fatalf("%q leads to %q", p, at)
			}
			if got := st.cwd(); got != at {
				t.Fatalf("%q leads to %q, and is %q after that", p, at, got)
			}
		}
	})
}
