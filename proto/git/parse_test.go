package git

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// TestParseRemote checks which URLs git is given, and that no credentials are in them.
func TestParseRemote(t *testing.T) {
	for in, want := range map[string]string{
		"https://host/a.git":                "https https://host/a.git ",
		"HTTPS://host/a.git":                "https https://host/a.git ",
		"https://user:pass@host:8443/a.git": "https https://host:8443/a.git Basic dXNlcjpwYXNz",
		"https://token@host/a.git":          "https https://host/a.git Basic dG9rZW46",
		"https://host/a.git#frag":           "https https://host/a.git ",
		"ssh://git:pw@host:22/a":            "ssh ssh://git@host:22/a ",
		"git@host:a/b.git":                  "ssh git@host:a/b.git ",
		"git://host/a":                      "git git://host/a ",
		"http://[::1]:80/a":                 "http http://[::1]:80/a ",
	} {
		a, err := parseRemote(in)
		if got := fmt.Sprintf("%s %s %s", a.scheme, a.url, a.header); err != nil || got != want {
			t.Errorf("parseRemote(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "a", "/etc", "file:///etc", "ext::x", "ftp://host/a", "http://", "https://user:se cret@/a", "https://user:secret@ho st/a",
		"-u@host:a", "http://host/a\x00", "git://-x/a", "rsync://host/a",
	} {
		if a, err := parseRemote(in); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("parseRemote(%q) = %+v, %v", in, a, err)
		}
	}
}

// TestRedact checks that URLs are shown as BuildKit shows them.
func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:pass@host/a.git": "https://xxxxx:xxxxx@host/a.git",
		"https://user@host/a.git":      "https://xxxxx@host/a.git",
		"https://:pass@host/a.git":     "https://:xxxxx@host/a.git",
		"https://host/a.git":           "https://host/a.git",
		"https://u:pass@ho st/a@b":     "https://xxxxx@b",
		"git@host:a":                   "git@host:a",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestParseModules checks which section counts for a path.
func TestParseModules(t *testing.T) {
	got := parseModules("submodule.b.c.path\nx/\x00submodule.b.c.url\nu1\x00submodule.b.c.url\nu2\x00" +
		"submodule.z.path\nx\x00submodule.z.url\nother\x00submodule.only.url\nu\x00core.path\ny\x00submodule.path\nq\x00" +
		"submodule.n.path\nn\x00submodule.n.update\nnone\x00junk")
	want := map[string]module{
		"x": {"b.c", "x/", "u2", ""}, // the first name, whatever the order of a map
		"n": {"n", "n", "", "none"},
	}
	for p, m := range got {
		if want[p] != *m {
			t.Errorf("%q is %+v, want %+v", p, *m, want[p])
		}
	}
	if !slices.Equal(slices.Sorted(maps.Keys(got)), []string{"n", "x"}) {
		t.Errorf("paths are %v", slices.Collect(maps.Keys(got)))
	}
}

// TestTail checks that an error has the end of what git said, as a terminal would show it.
func TestTail(t *testing.T) {
	var tl tail
	_, _ = fmt.Fprintf(&tl, "%s", strings.Repeat("x", 2*maxStderr))
	_, _ = fmt.Fprintf(&tl, "\nprogress 1%%\rprogress 2%%  \n\nfatal: no\n")
	got := tl.text()
	if len(got) > maxStderr || !strings.HasSuffix(got, "x\nprogress 2%\nfatal: no") {
		t.Errorf("%d bytes: …%q", len(got), got[max(0, len(got)-60):])
	}
}

// FuzzRemote checks that what git is given is one of its four protocols, has no password, and cannot be taken for an
// option, for repositories and for submodules.
func FuzzRemote(f *testing.F) {
	for _, s := range []string{
		"https://u:p@host/a.git", "ssh://git@host/a", "git@host:a", "../a", "./../../a", "ext::sh", "-x", "http://[::1]/", "git://h/-",
	} {
		f.Add("https://host/x/y.git", s)
		f.Add("git@host:x/y", s)
	}
	f.Fuzz(func(t *testing.T, parent, raw string) {
		check := func(a address) {
			if strings.HasPrefix(a.url, "-") || strings.ContainsAny(a.url, "\n\r\x00") {
				t.Errorf("%q became %q", raw, a.url)
			}
			scheme, rest, ok := strings.Cut(a.url, "://")
			if !ok {
				if !scpForm.MatchString(a.url) {
					t.Errorf("%q became %q", raw, a.url)
				}
				return
			}
			authority, _, _ := strings.Cut(rest, "/")
			if !slices.Contains([]string{"http", "https", "ssh", "git"}, scheme) || strings.HasPrefix(authority, "-") {
				t.Errorf("%q became %q", raw, a.url)
			}
			if user, _, ok := strings.Cut(authority, "@"); ok && (strings.HasPrefix(scheme, "http") || strings.Contains(user, ":")) {
				t.Errorf("%q became %q, with credentials", raw, a.url)
			}
		}
		if a, err := parseRemote(raw); err == nil {
			check(a)
		}
		_ = Redact(raw)
		r := Remote{URL: parent}
		if sub, err := r.submodule(raw); err == nil {
			a, err := parseRemote(sub.URL)
			if err != nil {
				t.Errorf("a submodule of %q at %q: %v", parent, raw, err)
			}
			check(a)
		}
	})
}

// FuzzListing checks that no output of git makes a submodule's path leave its tree, or a budget grow.
func FuzzListing(f *testing.F) {
	f.Add("100644 blob 1111111111111111111111111111111111111111      12\ta/b\x00160000 commit 2222222222222222222222222222222222222222       -\tsub\x00")
	f.Add("160000 commit 2222222222222222222222222222222222222222       -\t../sub\x00")
	f.Add("100644 blob 1 -5\t.git/x")
	f.Fuzz(func(t *testing.T, out string) {
		b := &budget{maxEntries: 3, maxBytes: 100}
		b.entries.Store(3)
		b.bytes.Store(100)
		var l listing
		if err := l.read(strings.NewReader(out), b); err != nil {
			return
		}
		if b.bytes.Load() > 100 || b.entries.Load() > 3 {
			t.Errorf("%d bytes and %d entries are left", b.bytes.Load(), b.entries.Load())
		}
		for _, k := range l.links {
			if path.Clean("/"+k.path) != "/"+k.path || !IsHash(k.hash) {
				t.Errorf("a submodule at %q of %q", k.path, k.hash)
			}
		}
	})
}
