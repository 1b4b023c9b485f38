package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A list of cgroups that a power cut has damaged keeps no executor from starting, and is told of.
func TestDamagedParents(t *testing.T) {
	for _, content := range []string{"", `["/a/boxb`, `{"a": 1}`} {
		var said bytes.Buffer
		opts := &Options{Dir: t.TempDir(), CgroupParent: "/boxbuild-test", Log: &said}
		file := filepath.Join(opts.Dir, parentsFile)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := openParents(opts)
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		if !strings.Contains(said.String(), "is damaged") {
			t.Errorf("%q: said %q", content, &said)
		}
		if err := p.add(t.Context(), "/a"); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != `["/a/boxbuild-test"]` {
			t.Errorf("%q: the list is %s, %v", content, got, err)
		}
	}
}
