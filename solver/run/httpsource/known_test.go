package httpsource

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func known(etag, modified string) Known {
	return Known{ETag: etag, LastModified: modified, Digest: digest.FromString(etag + modified), Name: "f"}
}

// A content that is known is not taken again, whichever way the server says that it is current; any other is.
func TestConditions(t *testing.T) {
	const day = "Mon, 02 Jan 2023 03:04:05 GMT"
	a, b, dated := known(`"a"`, ""), known(`"b"`, day), known("", day)
	for name, c := range map[string]struct {
		known         []Known
		status        int
		etag          string
		match, modify string // what the request has
		want          int
	}{
		"nothing known":              {nil, 200, `"a"`, "", "", -1},
		"not modified":               {[]Known{a}, 304, `"a"`, `"a"`, "", 0},
		"not modified, no tag":       {[]Known{a}, 304, "", `"a"`, "", 0},
		"one of two":                 {[]Known{a, b}, 304, `"b"`, `"a", "b"`, "", 1},
		"one of two, weak":           {[]Known{a, b}, 304, `W/"b"`, `"a", "b"`, "", 1},
		"conditions ignored":         {[]Known{a, b}, 200, `"b"`, `"a", "b"`, "", 1},
		"changed":                    {[]Known{a, b}, 200, `"c"`, `"a", "b"`, "", -1},
		"changed, no tag":            {[]Known{a}, 200, "", `"a"`, "", -1},
		"not modified since":         {[]Known{dated}, 304, "", "", day, 0},
		"modified since":             {[]Known{dated}, 200, "", "", day, -1},
		"tags go before dates":       {[]Known{a, dated}, 304, "", `"a"`, "", 0},
		"not modified, which of two": {[]Known{a, b}, 304, "", `"a", "b"`, "", -2},
		"not modified, an unknown":   {[]Known{a}, 304, `"z"`, `"a"`, "", -2},
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get("If-None-Match"); got != c.match {
				t.Errorf("%s: If-None-Match is %q", name, got)
			}
			if got := r.Header.Get("If-Modified-Since"); got != c.modify {
				t.Errorf("%s: If-Modified-Since is %q", name, got)
			}
			if c.etag != "" {
				w.Header().Set("ETag", c.etag)
			}
			w.WriteHeader(c.status)
			if c.status == 200 {
				_, _ = w.Write([]byte("body"))
			}
		})
		got, sink, err := get(t, quick(Options{}), &Request{URL: s.URL, Known: c.known})
		switch {
		case c.want == -2 && err == nil:
			t.Errorf("%s: no error", name)
		case c.want == -2:
		case err != nil || got.Match != c.want:
			t.Errorf("%s: got %v, %v", name, got, err)
		case (sink.String() == "body") != (c.want == -1):
			t.Errorf("%s: got body %q", name, sink)
		}
	}
}

// A date counts as a validator only if what was changed within its second cannot have the same.
func TestStrongDate(t *testing.T) {
	at := time.Date(2023, 1, 2, 3, 4, 5, 0, time.UTC)
	for age, want := range map[time.Duration]bool{0: false, time.Second: false, 59 * time.Second: false, time.Minute: true, time.Hour: true, -time.Hour: false} {
		h := http.Header{}
		h.Set("Last-Modified", at.Format(http.TimeFormat))
		h.Set("Date", at.Add(age).Format(http.TimeFormat))
		k, ok := KnownOf(&Answer{Header: h}, digest.FromString("x"), "f")
		if ok != want || (k.LastModified != "") != want || !k.Modified.Equal(at) {
			t.Errorf("%s old: got %v, %v", age, k, ok)
		}
	}
	if _, ok := KnownOf(&Answer{Header: http.Header{"Last-Modified": {"yesterday"}, "Date": {"now"}}}, "", "f"); ok {
		t.Error("what is no date is taken for a validator")
	}
}

// A name is one component that a directory can hold, whatever a URL or a server says.
func TestFileName(t *testing.T) {
	disposition := func(v string) http.Header { return http.Header{"Content-Disposition": {v}} }
	for _, c := range []struct {
		url, given string
		h          http.Header
		want       string
	}{
		{"http://h/a/b.tar?x=y#z", "", nil, "b.tar"},
		{"http://h/a/b/", "", nil, "b"},
		{"http://h/a%20b", "", nil, "a b"},
		{"http://h/%2e%2e", "", nil, "download"},
		{"http://h/..%2f..%2fetc%2fpasswd", "", nil, "passwd"},
		{"http://h/a%00b", "", nil, "download"},
		{"http://h/a%0Ab", "", nil, "download"},
		{"http://h", "", nil, "download"},
		{"http://h/", "", nil, "download"},
		{"http://h/" + strings.Repeat("n", 256), "", nil, "download"},
		{"http://h/資料.txt", "", nil, "資料.txt"},
		{"http://h/x", "given", disposition(`attachment; filename="y"`), "given"},
		{"http://h/x", "../../given", nil, "given"},
		{"http://h/x", "..", nil, "download"},
		{"http://h/x", "", disposition(`attachment; filename="y.txt"`), "y.txt"},
		{"http://h/x", "", disposition(`attachment; filename*=UTF-8''%E2%82%AC.txt`), "€.txt"},
		{"http://h/x", "", disposition(`attachment; filename="../../etc/cron.d/evil"`), "evil"},
		{"http://h/x", "", disposition(`attachment; filename="/etc/passwd"`), "passwd"},
		{"http://h/x", "", disposition(`attachment; filename=".."`), "download"},
		{"http://h/x", "", disposition(`attachment; filename="a/"`), "x"},
		{"http://h/x", "", disposition(`attachment; filename=" "`), "download"},
		{"http://h/x", "", disposition(`;;;`), "x"},
	} {
		if got := FileName(c.url, c.given, c.h); got != c.want {
			t.Errorf("FileName(%q, %q, %v) = %q, want %q", c.url, c.given, c.h, got, c.want)
		}
	}
}

// FuzzFileName checks that no name leads out of a directory.
func FuzzFileName(f *testing.F) {
	f.Add("http://h/a", "", `attachment; filename="../x"`)
	f.Add("http://h/%2e%2e", "..", "")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, url, given, disposition string) {
		name := FileName(url, given, http.Header{"Content-Disposition": {disposition}})
		if name != filepath.Base(name) || name == "." || name == ".." || strings.ContainsAny(name, "/\x00\n") {
			t.Fatalf("got %q", name)
		}
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Fatalf("%q: %v", name, err)
		}
	})
}

// What was put is found again after a restart, the last first, and no more of it than is of use.
func TestMemory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fetched")
	m := OpenMemory(dir)
	if got := m.Get("u"); got != nil {
		t.Errorf("got %v", got)
	}
	for i := range 12 {
		m.Put("u", known(strconv.Quote(strconv.Itoa(i)), ""))
	}
	m.Put("u", known(`"9"`, ""))
	m.Put("secret-url", known("", "x"))
	m.Put("secret-url", known("", "y"))
	m = OpenMemory(dir)
	var got []string
	for _, k := range m.Get("u") {
		got = append(got, k.ETag)
	}
	if want := `"9" "11" "10" "8" "7" "6" "5" "4"`; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := m.Get("secret-url"); len(got) != 1 || got[0].LastModified != "y" {
		t.Errorf("got %v", got)
	}
	files, _ := os.ReadDir(dir)
	if len(files) != 2 {
		t.Errorf("there are %d files", len(files))
	}
	for _, f := range files {
		data, _ := os.ReadFile(filepath.Join(dir, f.Name()))
		if strings.Contains(f.Name()+string(data), "secret") {
			t.Errorf("%s holds what was asked for: %s", f.Name(), data)
		}
	}
}

// A memory that is damaged, or that somebody wrote something else to, is as good as none.
func TestDamagedMemory(t *testing.T) {
	dir := t.TempDir()
	m := OpenMemory(dir)
	for _, data := range []string{
		"", "{", "[]", "null", `[{"etag":"a"}]`, `[{"etag":"a","digest":"sha256:00","name":"f"}]`,
		`[{"etag":"a","name":"../f","digest":"` + digest.FromString("x").String() + `"}]`,
		`[{"name":"f","digest":"` + digest.FromString("x").String() + `"}]`,
		`[{"etag":"a","name":"f","digest":"sha512:` + strings.Repeat("0", 128) + `"}]`,
		string(bytes.Repeat([]byte(" "), maxMemory+1)),
	} {
		_ = os.WriteFile(m.path("u"), []byte(data), 0o600)
		if got := m.Get("u"); len(got) > 0 {
			t.Errorf("%.80q: got %v", data, got)
		}
	}
	m.Put("u", known(`"a"`, ""))
	if len(m.Get("u")) != 1 {
		t.Error("a damaged file stays")
	}
	_ = os.WriteFile(filepath.Join(dir, ".new-1"), nil, 0o600)
	for i := range maxURLs + 10 {
		_ = os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600)
		if i < 10 {
			_ = os.Chtimes(filepath.Join(dir, strconv.Itoa(i)), time.Time{}, time.Unix(1, 0))
		}
	}
	OpenMemory(dir)
	if files, _ := os.ReadDir(dir); len(files) != maxURLs || files[0].Name()[0] == '.' {
		t.Errorf("%d files are left", len(files))
	}
	var none Memory
	none.Put("u", known(`"a"`, ""))
	if OpenMemory("").Get("u") != nil {
		t.Error("a memory without a place remembers")
	}
}
