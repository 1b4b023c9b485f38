package fileop

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// Symbolic modes mean what they mean to chmod(1), for files and directories, with a umask of 0.
func TestModeLikeChmod(t *testing.T) {
	dir := t.TempDir()
	for _, s := range []string{
		"u=rwX,go=rX", "+x", "-x", "=r", "a=", "g=u", "o=g", "u+s", "g+s", "u-s", "+t", "ug=rw,o=", "u=rwx,g=u-w,o=g",
		"go-rwx", "a+X", "u=g+x", "o+w-r", "ug+s", "=rw,+X", "u=s", "a-t",
	} {
		change, err := parseMode(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		for _, mode := range []uint32{0, 0o644, 0o755, 0o4711, 0o2750, 0o1777, 0o7777, 0o010} {
			for _, isDir := range []bool{false, true} {
				p := fmt.Sprintf("%s/%t", dir, isDir)
				typ := uint32(unix.S_IFREG)
				if isDir {
					typ = unix.S_IFDIR
					_ = os.Mkdir(p, 0o755)
				} else {
					_ = os.WriteFile(p, nil, 0o644)
				}
				if err := unix.Chmod(p, mode); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command("sh", "-c", `umask 0; exec chmod "$0" "$1"`, s, p)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("chmod %s: %s", s, out)
				}
				var st unix.Stat_t
				if err := unix.Stat(p, &st); err != nil {
					t.Fatal(err)
				}
				if got := change.apply(typ | mode); got != st.Mode {
					t.Errorf("%s of %o: got %o, chmod gives %o", s, typ|mode, got, st.Mode)
				}
			}
		}
	}
	for _, s := range []string{"", "u", "x", "u=rwx,", "u*r", "u=rz", "755"} {
		if _, err := parseMode(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

// A mode that is parsed can be applied to anything, and changes neither the type nor a bit beyond the permissions.
func FuzzMode(f *testing.F) {
	f.Add("u=rwX,go=rX", uint32(0o644))
	f.Fuzz(func(t *testing.T, s string, mode uint32) {
		c, err := parseMode(s)
		if err != nil {
			return
		}
		if got := c.apply(mode); got&^0o7777 != mode&^0o7777 {
			t.Errorf("%q of %o gives %o", s, mode, got)
		}
	})
}

// What parses as a manifest is found again, and nothing else does any harm.
func FuzzManifest(f *testing.F) {
	r := &recorder{}
	r.add([]record{{path: "/b", size: 1}, {path: "/a", meta: meta{mode: 0o644}}, {path: "/b", size: 2}})
	f.Add(r.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m := parseManifest(b)
		if m == nil {
			return
		}
		for i := range m.records {
			if got := m.find(m.records[i].path); got != &m.records[i] {
				t.Errorf("%q is not found", m.records[i].path)
			}
		}
	})
}

// The later of two records of a path is the one that counts.
func TestManifest(t *testing.T) {
	r := &recorder{}
	r.add([]record{{path: "/b", size: 1}, {path: "/a", meta: meta{mode: 0o644, uid: 1, gid: 2, mtime: -5}}, {path: "/b", size: 2}})
	m := parseManifest(r.encode())
	if m == nil || len(m.records) != 2 {
		t.Fatalf("got %+v", m)
	}
	if a, b := m.find("/a"), m.find("/b"); a == nil || a.meta != r.records[0].meta || b == nil || b.size != 2 || m.find("/c") != nil {
		t.Errorf("got %+v", m.records)
	}
}

// A recorder that was asked to describe more files than there is room for describes none.
func TestManifestRoom(t *testing.T) {
	r := &recorder{max: 2}
	for i := range 2 {
		if !r.room() {
			t.Errorf("there is no room for file %d", i)
		}
	}
	r.add([]record{{path: "/a"}, {path: "/b"}})
	if m := parseManifest(r.encode()); m == nil || len(m.records) != 2 {
		t.Errorf("a full manifest: %+v", m)
	}
	if r.room() || r.encode() != nil {
		t.Error("there is room for a third file")
	}
	var none *recorder
	if none.room() {
		t.Error("there is room where nothing is recorded")
	}
}
