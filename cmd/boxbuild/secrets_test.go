package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/solver/session"
)

// environ is an environment for tests.
func environ(vars map[string]string) config.Env {
	return config.Env{Lookup: func(name string) (string, bool) { v, ok := vars[name]; return v, ok }}
}

// TestSecrets checks where each form of --secret takes its value from.
func TestSecrets(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{"file": "from file", "both": "the file", "a,b": "comma", "empty": ""} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := &app{env: environ(map[string]string{"VAR": "from var", "both": "the var", "NONE": ""})}
	for _, tc := range []struct {
		flags []string
		id    string
		want  string
	}{
		{[]string{"id=x,src=file"}, "x", "from file"},
		{[]string{"id=x,source=file,type=file"}, "x", "from file"},
		{[]string{"ID=x,SRC=file"}, "x", "from file"},
		{[]string{"id=x,env=VAR"}, "x", "from var"},
		{[]string{"id=x,type=env,src=VAR"}, "x", "from var"},
		{[]string{"id=x,type=env,env=VAR"}, "x", "from var"},
		{[]string{"id=x,env=UNSET"}, "x", ""},
		{[]string{"id=file"}, "file", "from file"},
		{[]string{"id=VAR"}, "VAR", "from var"},
		{[]string{"id=both"}, "both", "the var"},
		{[]string{"id=both,src=both"}, "both", "the file"},
		{[]string{"id=empty"}, "empty", ""},
		{[]string{`id=x,"src=a,b"`}, "x", "comma"},
		{[]string{"id=x,src=file", "", "id=x,env=VAR"}, "x", "from var"},
	} {
		store, err := a.secrets(tc.flags)
		if err != nil {
			t.Errorf("%q: %v", tc.flags, err)
			continue
		}
		got, err := store.answer(a.env, tc.id)
		if err != nil || !got.GetFound() || string(got.GetData()) != tc.want {
			t.Errorf("%q is %q (%v, %v), want %q", tc.flags, got.GetData(), got.GetFound(), err, tc.want)
		}
	}
}

// TestOnlyOffered checks that the daemon is told nothing of what was not offered, even if there are a variable and a file
// of that name, and that a secret which has gone since is an error, not an absence.
func TestOnlyOffered(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"file", "gone"} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := &app{env: environ(map[string]string{"HOME": "/root"})}
	store, err := a.secrets([]string{"id=gone"})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"file", "HOME", "", "../gone", "gone "} {
		if got, err := store.answer(a.env, id); err != nil || got.GetFound() {
			t.Errorf("%q is %v, %v", id, got, err)
		}
	}
	if err := os.Remove("gone"); err != nil {
		t.Fatal(err)
	}
	if got, err := store.answer(a.env, "gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, %v, want that it does not exist", got, err)
	}
}

// TestBadSecrets checks the words for flags that make no sense, which are docker's.
func TestBadSecrets(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, size := range map[string]int{"big": session.MaxSecret + 1, "full": session.MaxSecret} {
		if err := os.WriteFile(name, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	big := strings.Repeat("x", session.MaxSecret+1)
	a := &app{env: environ(map[string]string{"BIG": big})}
	for flag, want := range map[string]string{
		"src=full":              "secret missing ID",
		"id":                    "invalid field 'id' must be a key=value pair",
		"id=x,nosuch=y":         "unexpected key 'nosuch' in 'nosuch=y'",
		"id=x,type=vault":       `unsupported secret type "vault"`,
		`id=x,"src`:             "failed to parse csv secret: ",
		"id=x,src=nosuch":       "failed to stat nosuch: ",
		"id=nosuch":             "failed to stat nosuch: ",
		"id=x,src=big":          "secret x too big. max size 500KiB",
		"id=x,src=big,type=env": "", // the name of a variable
	} {
		if _, err := a.secrets([]string{flag}); want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %s", flag, err, want)
		} else if want == "" && err != nil {
			t.Errorf("%q: %v", flag, err)
		}
	}
	store, err := a.secrets([]string{"id=full", "id=BIG"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := store.answer(a.env, "full"); err != nil || len(got.GetData()) != session.MaxSecret {
		t.Errorf("a secret of the greatest size: %d bytes, %v", len(got.GetData()), err)
	}
	if _, err := store.answer(a.env, "BIG"); err == nil || err.Error() != "invalid secret size 512001" {
		t.Errorf("a variable that is too big: %v", err)
	}
}

// TestEntitlements checks that what is the client's own to allow is not asked of the daemon.
func TestEntitlements(t *testing.T) {
	got := entitlements([]string{"network.host", "", "buildx.local.delete", "device=a"})
	if want := "network.host device=a"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNamedFifo checks that a secret may come from a pipe, as of a shell's <(…), and that a pipe has no way around the limit.
func TestNamedFifo(t *testing.T) {
	for size, want := range map[int]string{5: "", session.MaxSecret + 10: "invalid secret size 512001"} {
		path := filepath.Join(t.TempDir(), "pipe")
		if err := mkfifo(path); err != nil {
			t.Fatal(err)
		}
		a := &app{env: environ(nil)}
		store, err := a.secrets([]string{"id=x,src=" + path})
		if err != nil {
			t.Fatal(err)
		}
		written := make(chan struct{})
		go func() {
			defer close(written)
			_ = os.WriteFile(path, bytes.Repeat([]byte("y"), size), 0) // the reader may stop early
		}()
		got, err := store.answer(a.env, "x")
		<-written
		if (err == nil) != (want == "") || err != nil && err.Error() != want || err == nil && len(got.GetData()) != size {
			t.Errorf("%d bytes: %d, %v, want %q", size, len(got.GetData()), err, want)
		}
	}
}
