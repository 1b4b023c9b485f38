package fileop

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

type solverResult = solver.Result

func localTree(t testing.TB, dir string) treehash.Tree {
	t.Helper()
	s, err := filesync.Dir(dir, filesync.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	tree, err := s.Tree(t.Context(), filesync.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// grow makes a random tree. Two of them have many names in common, but for different things.
func grow(rng *rand.Rand, dir string, depth int) {
	for i := range 2 + rng.IntN(6) {
		kind := "fdlfd"[i%5]
		if rng.IntN(40) == 0 {
			kind = "fdl"[rng.IntN(3)]
		}
		name := fmt.Sprint("n", i)
		p := filepath.Join(dir, name)
		switch kind {
		case 'd':
			if depth > 0 {
				_ = os.Mkdir(p, 0o755)
				grow(rng, p, depth-1)
				_ = os.Chmod(p, os.FileMode(0o700+rng.IntN(64)))
				_ = os.Chown(p, rng.IntN(3), rng.IntN(3))
			}
		case 'l':
			_ = os.Symlink([]string{"n0", "/n1", "../..", "nowhere"}[rng.IntN(4)], p)
		default:
			_ = os.WriteFile(p, fmt.Appendf(nil, "%d", rng.IntN(1000)), 0o644)
			_ = os.Chown(p, rng.IntN(3), rng.IntN(3))
			_ = os.Chmod(p, os.FileMode(0o600+rng.IntN(64))|[]os.FileMode{0, 0, os.ModeSetuid}[rng.IntN(3)])
			if rng.IntN(4) == 0 {
				_ = os.Link(p, p+"-too")
			}
			if rng.IntN(4) == 0 {
				_ = unix.Setxattr(p, "user.k", fmt.Append(nil, rng.IntN(9)), 0)
			}
		}
	}
	_ = filepath.Walk(dir, func(p string, _ os.FileInfo, _ error) error {
		ts := []unix.Timespec{unix.NsecToTimespec(1e18), unix.NsecToTimespec(1e18 + rng.Int64N(1e12))}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// Copying a tree onto another gives what "cp -a" gives, in every way in which drafts are written. It fails where that
// fails, which is where a directory and something else have the same name.
func TestCopyLikeCp(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	compared := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var trees [2]string
		for i := range trees {
			trees[i] = t.TempDir()
			grow(rng, trees[i], 3)
		}
		want := t.TempDir()
		cp := func(from string) error {
			out, err := exec.Command("cp", "-a", "--remove-destination", from+"/.", want).CombinedOutput()
			if err != nil {
				return fmt.Errorf("cp: %s", out)
			}
			return nil
		}
		if err := cp(trees[0]); err != nil {
			t.Fatal(err)
		}
		cpErr := cp(trees[1])
		everyWay(t, func(t *testing.T, e *testEnv) {
			take := func(dir string) solver.Result {
				return e.result([]string{dir})
			}
			c := with(dockerfile("/", "/"), func(c *op.Copy) { c.Time = time.Time{} })
			r, err := e.do(take(trees[0]), take(trees[1]), op.FileAction{Copy: c})
			if (err == nil) != (cpErr == nil) {
				t.Fatalf("seed %d: got %v, cp says %v", seed, err, cpErr)
			}
			if err != nil {
				return
			}
			compared++
			got, exp := e.dump(r), dumpDir(t, want)
			if got != exp {
				t.Errorf("seed %d:\n%s", seed, diff(got, exp))
			}
		})
	}
	if compared < 30 {
		t.Errorf("only %d copies could be compared", compared)
	}
}

func diff(got, want string) string {
	var b strings.Builder
	g, w := map[string]bool{}, map[string]bool{}
	for l := range strings.Lines(got) {
		g[l] = true
	}
	for l := range strings.Lines(want) {
		w[l] = true
		if !g[l] {
			b.WriteString("- " + l)
		}
	}
	for l := range g {
		if !w[l] {
			b.WriteString("+ " + l)
		}
	}
	return b.String()
}
