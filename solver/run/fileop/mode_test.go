package fileop

import (
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Symbolic modes mean for files and directories what they mean to BuildKit. The wanted modes were read from layers that
// BuildKit v0.32.2 made.
func TestMode(t *testing.T) {
	in := []uint32{0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o2775, 0o7777}
	for _, c := range []struct{ change, files, dirs string }{
		{"u=rwX,go=rX", "644 755 755 755 1755 755 1755", "755 755 755 755 1755 755 1755"},
		{"+x", "755 755 4755 2755 1777 2775 7777", "755 755 4755 2755 1777 2775 7777"},
		{"-x", "644 644 4644 2644 1666 2664 7666", "644 644 4644 2644 1666 2664 7666"},
		{"+X", "644 755 4755 2755 1777 2775 7777", "755 755 4755 2755 1777 2775 7777"},
		{"-X", "644 644 4644 2644 1666 2664 7666", "644 644 4644 2644 1666 2664 7666"},
		{"u+s", "4644 4755 4755 6755 5777 6775 7777", "4644 4755 4755 6755 5777 6775 7777"},
		{"g+s", "2644 2755 6755 2755 3777 2775 7777", "2644 2755 6755 2755 3777 2775 7777"},
		{"+t", "1644 1755 5755 3755 1777 3775 7777", "1644 1755 5755 3755 1777 3775 7777"},
		{"o+t", "644 755 4755 2755 1777 2775 7777", "644 755 4755 2755 1777 2775 7777"},
		{"o=t", "640 750 4750 2750 1770 2770 7770", "640 750 4750 2750 1770 2770 7770"},
		{"g=u", "664 775 4775 2775 1777 2775 7777", "664 775 4775 2775 1777 2775 7777"},
		{"u=g", "444 555 4555 2555 1777 2775 7777", "444 555 4555 2555 1777 2775 7777"},
		{"o=g", "644 755 4755 2755 1777 2777 7777", "644 755 4755 2755 1777 2777 7777"},
		{"g=o", "644 755 4755 2755 1777 2755 7777", "644 755 4755 2755 1777 2755 7777"},
		{"go=u-w", "644 755 4755 2755 1755 2755 7755", "644 755 4755 2755 1755 2755 7755"},
		{"go-rwx", "600 700 4700 2700 1700 2700 7700", "600 700 4700 2700 1700 2700 7700"},
		{"u=rws", "4644 4655 4655 6655 5677 6675 7677", "4644 4655 4655 6655 5677 6675 7677"},
		{"g=s", "2604 2705 6705 2705 3707 2705 7707", "2604 2705 6705 2705 3707 2705 7707"},
		{"=", "0 0 0 0 1000 0 1000", "0 0 0 0 1000 0 1000"},
		{"a=", "0 0 0 0 1000 0 1000", "0 0 0 0 1000 0 1000"},
		{"u=,g+X,o=u", "40 50 50 2050 1070 2070 3070", "50 50 50 2050 1070 2070 3070"},
		{"ug=rwx,o-w", "774 775 775 775 1775 775 1775", "774 775 775 775 1775 775 1775"},
		{"ugo=rwX", "666 777 777 777 1777 777 1777", "777 777 777 777 1777 777 1777"},
		{"u=r+w", "644 655 655 2655 1677 2675 3677", "644 655 655 2655 1677 2675 3677"},
		{"a=,u+r", "400 400 400 400 1400 400 1400", "400 400 400 400 1400 400 1400"},
		{"=rw,+X", "666 777 777 777 1777 777 1777", "777 777 777 777 1777 777 1777"},
		{"a-t", "644 755 4755 2755 777 2775 6777", "644 755 4755 2755 777 2775 6777"},
		{"-s", "644 755 755 755 1777 775 1777", "644 755 755 755 1777 775 1777"},
		{"ug+s", "6644 6755 6755 6755 7777 6775 7777", "6644 6755 6755 6755 7777 6775 7777"},
		{"u=s", "4044 4055 4055 6055 5077 6075 7077", "4044 4055 4055 6055 5077 6075 7077"},
		{"=t", "1644 1755 5755 3755 1777 3775 7777", "1644 1755 5755 3755 1777 3775 7777"},
		{"u=rwx,g=u-w,o=g", "755 755 755 2755 1755 2755 3755", "755 755 755 2755 1755 2755 3755"},
		{"o+s", "644 755 4755 2755 1777 2775 7777", "644 755 4755 2755 1777 2775 7777"},
		{"ug=rw,o=", "660 660 660 660 1660 660 1660", "660 660 660 660 1660 660 1660"},
		{"=r", "444 444 444 444 1444 444 1444", "444 444 444 444 1444 444 1444"},
		{"o+w-r", "642 753 4753 2753 1773 2773 7773", "642 753 4753 2753 1773 2773 7773"},
		{"u+g", "644 755 4755 2755 1777 2775 7777", "644 755 4755 2755 1777 2775 7777"},
		{"o-u", "640 750 4750 2750 1770 2770 7770", "640 750 4750 2750 1770 2770 7770"},
		{"u-x+X", "644 755 4755 2755 1777 2775 7777", "744 755 4755 2755 1777 2775 7777"},
		{"+rwxst", "1644 1755 5755 3755 1777 3775 7777", "1644 1755 5755 3755 1777 3775 7777"},
		{"a=rwxs", "6777 6777 6777 6777 7777 6777 7777", "6777 6777 6777 6777 7777 6777 7777"},
		{"g-s,u-s", "644 755 755 755 1777 775 1777", "644 755 755 755 1777 775 1777"},
	} {
		change, err := parseMode(c.change)
		if err != nil {
			t.Errorf("%s: %v", c.change, err)
			continue
		}
		for typ, want := range map[uint32]string{unix.S_IFREG: c.files, unix.S_IFDIR: c.dirs} {
			var got []string
			for _, m := range in {
				got = append(got, strconv.FormatUint(uint64(change.apply(typ|m)^typ), 8))
			}
			if got := strings.Join(got, " "); got != want {
				t.Errorf("%s of type %o: got %s, want %s", c.change, typ, got, want)
			}
		}
	}
	for _, s := range []string{"", "u", "x", "u=rwx,", "u*r", "u=rz"} {
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
