package layer

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// linksBelow has a file with one name, two files with two, and two equal files.
func linksBelow(t testing.TB) []byte {
	return mkTar(t, dir("d/"), dir("e/"), file("d/m", "one"),
		file("d/x", "two"), link("e/y", "d/x"), file("d/p", "same"), file("d/q", "same"))
}

// A step that changes which names share a file has that in its layer, on plain trees as on overlayfs, and with the same
// bytes as long as the kernel has not broken a link by copying a file up. Laid over the base it makes the tree of the step.
func TestDiffLinks(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		step  string
		plain []string
		over  []string // if overlayfs has another tree
	}{
		"after":   {"ln d/m d/z", []string{"5 d/", "0 d/m", "1 d/z"}, nil},
		"before":  {"ln d/m d/a", []string{"5 d/", "0 d/a", "1 d/m"}, nil},
		"apart":   {"mkdir a f; ln d/m a/l; ln d/m f/l", []string{"5 a/", "0 a/l", "5 d/", "1 d/m", "5 f/", "1 f/l"}, nil},
		"onto":    {"ln -f d/p d/q", []string{"5 d/", "0 d/p", "1 d/q"}, nil},
		"gone":    {"rm e/y", []string{"5 e/", "0 e/.wh.y"}, nil},
		"moved":   {"mv d/m d/n", []string{"5 d/", "0 d/.wh.m", "0 d/n"}, nil},
		"parted":  {"cp -p d/x t; mv t e/y", []string{"5 e/", "0 e/y"}, nil},
		"nothing": {"true", nil, nil},
		// BuildKit has all names, too. The kernel makes the link to a copy of d/x, and e/y keeps the old file.
		"third": {"ln d/x d/z", []string{"5 d/", "0 d/x", "1 d/z", "5 e/", "1 e/y"}, []string{"5 d/", "0 d/x", "1 d/z"}},
		"write": {"echo > d/x", []string{"5 d/", "0 d/x", "5 e/", "1 e/y"}, []string{"5 d/", "0 d/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t)
			s.push(linksBelow(t))
			before := filepath.Join(s.dir, "before")
			must(t, exec.Command("cp", "-a", s.plain, before).Run())
			step := func(root string) {
				// Times of directories and of what was written are the same, whichever tree came first.
				cmd := exec.Command("sh", "-c", "set -e; "+c.step+"; find . -newermt @1600000000 -exec touch -hd @1000 {} +")
				cmd.Dir = root
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			step(s.plain)
			over := diffOf(t, s.write(step))
			plain := diffOf(t, Target{Dir: s.plain, Lower: []string{before}})
			if got := listTar(t, plain); !slices.Equal(got, c.plain) {
				t.Errorf("plain: got %q, want %q", got, c.plain)
			}
			if c.over == nil {
				s.agree()
				if !bytes.Equal(over, plain) {
					t.Errorf("overlay has %q, plain %q", listTar(t, over), listTar(t, plain))
				}
			} else if got := listTar(t, over); !slices.Equal(got, c.over) {
				t.Errorf("overlay: got %q, want %q", got, c.over)
			}
			apply(t, Target{Dir: before}, plain)
			if d := diffText(dump(t, before), dump(t, s.plain)); d != "" {
				t.Errorf("the layer laid over the base (got) is not the tree of the step (want):\n%s", d)
			}
		})
	}
}

// Which names are in a layer does not depend on links to elsewhere, as snapshots may have of one another.
func TestDiffLinksElsewhere(t *testing.T) {
	s := newStack(t)
	a, b := mkdir(t, filepath.Join(s.dir, "a")), mkdir(t, filepath.Join(s.dir, "b"))
	for _, root := range []string{a, b} {
		apply(t, Target{Dir: root}, linksBelow(t))
		must(t, os.Link(filepath.Join(root, "d/m"), root+"-elsewhere"))
	}
	if got := listTar(t, diffOf(t, Target{Dir: b, Lower: []string{a}})); len(got) > 0 {
		t.Errorf("got %q for equal trees", got)
	}
}
