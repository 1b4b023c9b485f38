package images

import (
	"bytes"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/solver/op"
)

// built makes a snapshot as a build does.
func built(t *testing.T, l *Layers, id, parent snapshot.ID, files ...string) {
	t.Helper()
	d := layer.NewDraft("test")
	m, err := l.Snapshots.Prepare(t.Context(), d, parent)
	if err != nil {
		t.Fatal(err)
	}
	to, _ := layer.TargetOf(m)
	if _, err := layer.Apply(t.Context(), to, bytes.NewReader(tarOf(t, files...)), layer.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := l.Snapshots.Commit(t.Context(), d, id); err != nil {
		t.Fatal(err)
	}
}

// known puts an image into the store.
func known(t *testing.T, l *Layers, system string, layers ...image.Layer) *image.Image {
	t.Helper()
	config := []byte(`{"os":"` + system + `","architecture":"amd64"}`)
	img := &image.Image{ID: digest.FromBytes(config), Config: config, Platform: op.Platform{OS: system, Architecture: "amd64"}, Layers: layers}
	if err := l.Images.Update(image.Update{Images: []*image.Image{img}, Names: []string{"docker.io/library/" + system + ":latest"}}); err != nil {
		t.Fatal(err)
	}
	return img
}

// The same blobs are another tree for Windows than for Linux, in whichever order they are unpacked, also if an image of the
// store has the other; what is built on each has its form.
func TestUnpackWindows(t *testing.T) {
	tarball := tarOf(t, "Files/", "", "Files/f", "1", "Hives/", "", "Hives/h", "2")
	upper := tarOf(t, "Files/", "", "Files/g", "3")
	for _, first := range []bool{false, true} {
		each(t, func(t *testing.T, l *Layers) {
			got := map[bool][]image.Layer{}
			for _, windows := range []bool{first, !first, first} {
				a, b := packed(l, tarball, nil), packed(l, upper, nil)
				a.Windows, b.Windows = windows, windows
				layers, err := l.Unpack(t.Context(), []Packed{a, b}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if have := got[windows]; have != nil && have[1].Snapshot != layers[1].Snapshot {
					t.Errorf("unpacked again it is %s, and was %s", layers[1].Snapshot, have[1].Snapshot)
				}
				got[windows] = layers
				known(t, l, map[bool]string{false: "linux", true: "windows"}[windows], layers...)
				if ids, err := l.Have(t.Context(), []digest.Digest{a.DiffID, b.DiffID}, windows); err != nil || len(ids) != 2 || ids[1] != layers[1].Snapshot {
					t.Errorf("there are %v, %v", ids, err)
				}
			}
			for windows, want := range map[bool]string{false: "built=x ", true: "Hives= Files= Files/built=x "} {
				id := snapshot.ID(map[bool]string{false: "onlinux", true: "onwindows"}[windows])
				built(t, l, id, got[windows][1].Snapshot, "built", "x")
				if s := list(t, l, id); s != want {
					t.Errorf("windows %v: the layer has %s, want %s", windows, s, want)
				}
				d, err := l.DiffIDs.Wait(t.Context(), id)
				if err != nil || d.DiffID == "" {
					t.Errorf("windows %v: %v", windows, err)
				}
			}
		})
	}
}

// A layer of an image for Windows that has not that form is unpacked as any other, once, and what is built on it is as any
// other's.
func TestUnpackWindowsPlain(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		a, b := packed(l, tarOf(t, "f", "1"), nil), packed(l, tarOf(t, "g", "2"), nil)
		a.Windows, b.Windows = true, true
		got, err := l.Unpack(t.Context(), []Packed{a, b}, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := l.Unpack(t.Context(), []Packed{a, b}, nil)
		if err != nil || again[1].Snapshot != got[1].Snapshot {
			t.Errorf("the second time it is %v, %v", again, err)
		}
		built(t, l, "on", got[1].Snapshot, "h", "3")
		if s := list(t, l, got[1].Snapshot) + list(t, l, "on"); s != "g=2 h=3 " {
			t.Errorf("the layers have %s", s)
		}
		if ok, err := l.Usable(t.Context(), known(t, l, "windows", got...)); !ok || err != nil {
			t.Errorf("of no use: %v", err)
		}
	})
}

// An image for Windows whose layers were unpacked as those of others is of no use; one that was built, or unpacked for Windows,
// is, and so is any for Linux.
func TestUsable(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		a := packed(l, tarOf(t, "Files/", "", "Files/f", "1"), nil)
		linux, err := l.Unpack(t.Context(), []Packed{a}, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.Windows = true
		windows, err := l.Unpack(t.Context(), []Packed{a}, nil)
		if err != nil {
			t.Fatal(err)
		}
		built(t, l, "built", "", "f", "1")
		for _, tt := range []struct {
			system string
			layers []image.Layer
			want   bool
		}{
			{"linux", linux, true},
			{"windows", linux, false},
			{"windows", windows, true},
			{"windows", []image.Layer{{Snapshot: "built"}}, true},
			{"windows", nil, true},
		} {
			img := &image.Image{Platform: op.Platform{OS: tt.system}, Layers: tt.layers}
			if got, err := l.Usable(t.Context(), img); got != tt.want || err != nil {
				t.Errorf("%s %v: got %v, %v", tt.system, tt.layers, got, err)
			}
		}
	})
}

// A copy of a difference has the layer of its original as long as both have the same form.
func TestDiffIDsWindows(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		a := packed(l, tarOf(t, "Files/", "", "Files/f", "1"), nil)
		a.Windows = true
		base, err := l.Unpack(t.Context(), []Packed{a}, nil)
		if err != nil {
			t.Fatal(err)
		}
		built(t, l, "file", "", "g", "2")
		if _, err := l.DiffIDs.Wait(t.Context(), "file"); err != nil {
			t.Fatal(err)
		}
		copied(t, l, "onwindows", base[0].Snapshot, snapshot.Delta{Upper: "file"})
		copied(t, l, "again", "onwindows", snapshot.Delta{Upper: "file", Loose: true})
		built(t, l, "linux", "", "l", "3")
		copied(t, l, "onlinux", "linux", snapshot.Delta{Upper: "file"})
		ids := map[snapshot.ID]digest.Digest{}
		for _, id := range []snapshot.ID{"file", "onwindows", "again", "onlinux"} {
			d, err := l.DiffIDs.Wait(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			ids[id] = d.DiffID
		}
		if ids["onwindows"] == ids["file"] || ids["onlinux"] != ids["file"] || ids["again"] != ids["onwindows"] {
			t.Errorf("the diff IDs are %v", ids)
		}
	})
}

// copied makes a copy of a difference.
func copied(t *testing.T, l *Layers, id, parent snapshot.ID, of snapshot.Delta) {
	t.Helper()
	d := layer.NewDraft("test")
	m, err := l.Snapshots.Prepare(t.Context(), d, parent)
	if err != nil {
		t.Fatal(err)
	}
	to, _ := layer.TargetOf(m)
	if err := layer.Transplant(t.Context(), l.Snapshots, of, to); err != nil {
		t.Fatal(err)
	}
	c, ok := l.Snapshots.(snapshot.DeltaCommitter)
	if !ok {
		t.Skip("deltas are not remembered")
	}
	if err := c.CommitDelta(t.Context(), d, id, of); err != nil {
		t.Fatal(err)
	}
}
