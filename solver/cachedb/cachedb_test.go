package cachedb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/cachedb"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

func mustOpen(t testing.TB, path string) *cachedb.Cache {
	t.Helper()
	c, err := cachedb.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// result is what the tests put under solvertest.Key(n).
func result(n int) []solver.Result { return []solver.Result{solver.Result("r" + strconv.Itoa(n))} }

func fill(t testing.TB, c *cachedb.Cache, n int) {
	t.Helper()
	for i := range n {
		if err := c.Put(t.Context(), solvertest.Key(i), result(i)); err != nil {
			t.Fatal(err)
		}
		c.Describe(t.Context(), solvertest.Key(i), solver.Record{
			Document: fmt.Sprintf("n=%d\n%s", i, strings.Repeat("x", 300)), Name: "step", Recipe: solvertest.Key(i + 1), Duration: time.Second,
		})
	}
}

// got counts how many of the first n keys are there, each with what belongs there.
func got(t testing.TB, c *cachedb.Cache, n int) (found int) {
	t.Helper()
	for i := range n {
		out, err := c.Get(t.Context(), solvertest.Key(i))
		switch {
		case errors.Is(err, solver.ErrMiss):
		case err != nil || !reflect.DeepEqual(out, result(i)):
			t.Errorf("key %d: got %v, %v", i, out, err)
		default:
			found++
		}
	}
	return found
}

// Both ways to make a Cache pass the suite, before and after what is in memory is written.
func TestSuite(t *testing.T) {
	n := 0
	t.Run("Open", func(t *testing.T) {
		solvertest.TestCache(t, func() solver.Cache {
			n++
			return mustOpen(t, filepath.Join(t.TempDir(), strconv.Itoa(n)))
		})
	})
	t.Run("New", func(t *testing.T) {
		solvertest.TestCache(t, func() solver.Cache {
			n++
			db, err := bbolt.Open(filepath.Join(t.TempDir(), strconv.Itoa(n)), 0o600, &bbolt.Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			c, err := cachedb.New(db)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				c.Close()
				db.Close()
			})
			return c
		})
	})
	t.Run("Flushed", func(t *testing.T) {
		solvertest.TestCache(t, func() solver.Cache {
			n++
			return flushed{mustOpen(t, filepath.Join(t.TempDir(), strconv.Itoa(n)))}
		})
	})
}

// flushed writes everything at once.
type flushed struct{ *cachedb.Cache }

func (f flushed) Put(ctx context.Context, k solver.Key, out []solver.Result) error {
	return errors.Join(f.Cache.Put(ctx, k, out), f.Flush(ctx))
}

// What a closed cache had is there when it is opened again, with all that is known of it.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	start := time.Now().Add(-time.Second)
	c := mustOpen(t, path)
	fill(t, c, 10)
	for range 3 {
		got(t, c, 10)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(t.Context(), solvertest.Key(0), nil); err == nil {
		t.Error("a closed cache takes records")
	}
	c = mustOpen(t, path)
	if n := got(t, c, 11); n != 10 {
		t.Errorf("%d records are left", n)
	}
	rec, err := c.Lookup(t.Context(), solvertest.Key(7))
	if err != nil {
		t.Fatal(err)
	}
	if rec.Uses != 4 || rec.LastUsed.Before(start) || rec.Created.Before(start) || !reflect.DeepEqual(rec.Results, result(7)) ||
		!strings.HasPrefix(rec.Document, "n=7\n") || rec.Name != "step" || rec.Recipe != solvertest.Key(8) || rec.Duration != time.Second {
		t.Errorf("got %+v", rec)
	}
	if _, err := c.Lookup(t.Context(), solvertest.Key(10)); !errors.Is(err, solver.ErrMiss) {
		t.Errorf("got %v", err)
	}
}

// A record found by another key has no duration, and does not take away the one that is known.
func TestDurationIsKept(t *testing.T) {
	c := mustOpen(t, filepath.Join(t.TempDir(), "cache.db"))
	k := solvertest.Key(1)
	c.Put(t.Context(), k, result(1))
	c.Describe(t.Context(), k, solver.Record{Duration: time.Minute})
	c.Flush(t.Context())
	c.Put(t.Context(), k, result(1))
	c.Describe(t.Context(), k, solver.Record{Name: "again"})
	rec, err := c.Lookup(t.Context(), k)
	if err != nil || rec.Duration != time.Minute || rec.Name != "again" {
		t.Errorf("got %+v, %v", rec, err)
	}
}

// Records yields all, also what is not written yet and also more than are read at once; the loop may use the cache and
// may end early. Drop deletes just what it is told to.
func TestRecordsAndDrop(t *testing.T) {
	c := mustOpen(t, filepath.Join(t.TempDir(), "cache.db"))
	const n = 1000
	fill(t, c, n)
	seen := make(map[solver.Key]bool)
	for rec, err := range c.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[rec.Key] {
			t.Fatalf("%s comes twice", rec.Key.Short())
		}
		seen[rec.Key] = true
		if _, err := c.Get(t.Context(), rec.Key); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != n {
		t.Errorf("%d records", len(seen))
	}
	for range c.Records(t.Context()) {
		break
	}
	odd := func(rec cachedb.Record) bool {
		i, _ := strconv.Atoi(string(rec.Results[0][1:]))
		return i%2 == 1
	}
	dropped, err := c.Drop(t.Context(), odd)
	if err != nil || dropped != n/2 {
		t.Errorf("dropped %d, %v", dropped, err)
	}
	for i := range n {
		_, err := c.Get(t.Context(), solvertest.Key(i))
		if gone := errors.Is(err, solver.ErrMiss); gone != (i%2 == 1) {
			t.Fatalf("key %d: got %v", i, err)
		}
	}
	if dropped, err := c.Drop(t.Context(), odd); err != nil || dropped != 0 {
		t.Errorf("dropped %d once more, %v", dropped, err)
	}
	c.Put(t.Context(), solvertest.Key(1), result(1)) // not written yet
	if err := c.Delete(t.Context(), solvertest.Key(0), solvertest.Key(1), solvertest.Key(n)); err != nil {
		t.Error(err)
	}
	if left := got(t, c, n); left != n/2-1 {
		t.Errorf("%d records are left", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range c.Records(ctx) {
		if err == nil {
			t.Error("a cancelled loop goes on")
		}
	}
}

// A file that is in use is not damaged.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	c := mustOpen(t, path)
	fill(t, c, 10)
	if other, err := cachedb.Open(path); err == nil {
		other.Close()
		t.Error("two can have the file open")
	}
	if n := got(t, c, 10); n != 10 {
		t.Errorf("%d records are left", n)
	}
	if _, err := os.Stat(path + ".damaged"); err == nil {
		t.Error("the file was moved aside")
	}
}

// A process that is killed in the midst of writing loses nothing that was written out, and the file is never wrong. The
// child prints how many records it has written out, and goes on.
func TestKill(t *testing.T) {
	if path := os.Getenv("CACHEDB_TEST_KILL"); path != "" {
		c, err := cachedb.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			fill(t, c, i) // over and over, so that pages are freed and used again
			if i%20 == 0 {
				if err := c.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				fmt.Println(i)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "cache.db")
	for round := range 10 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKill$")
		cmd.Env = append(os.Environ(), "CACHEDB_TEST_KILL="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		said := ""
		for len(said) < 10+10*round {
			n, err := out.Read(buf)
			said += string(buf[:n])
			if err != nil {
				t.Fatalf("the child ended: %v after %q", err, said)
			}
		}
		cmd.Process.Kill()
		rest, _ := io.ReadAll(out)
		cmd.Wait()
		lines := strings.Fields(said + string(rest))
		put, err := strconv.Atoi(lines[len(lines)-2]) // the last line may be half of one
		if err != nil {
			t.Fatal(err)
		}
		c := mustOpen(t, path)
		if n := got(t, c, put+1000); n < put {
			t.Errorf("round %d: %d records are left of %d that were written out", round, n, put)
		}
		if _, err := os.Stat(path + ".damaged"); err == nil {
			t.Fatal("the file was taken for damaged")
		}
		c.Close()
	}
}

// pretendPowerCut makes the note say that an earlier boot had the file open.
func pretendPowerCut(t *testing.T, path, what string) {
	t.Helper()
	if err := os.WriteFile(path+".note", []byte("another-boot "+what+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// After a power cut that did no harm, everything is there.
func TestPowerCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	c := mustOpen(t, path)
	fill(t, c, 1000)
	got(t, c, 1000)
	c.Close()
	pretendPowerCut(t, path, "open")
	c = mustOpen(t, path)
	if n := got(t, c, 1000); n != 1000 {
		t.Errorf("%d records are left", n)
	}
	rec, err := c.Lookup(t.Context(), solvertest.Key(7))
	if err != nil || rec.Uses != 2 || rec.Name != "step" {
		t.Errorf("got %+v, %v", rec, err)
	}
	if _, err := os.Stat(path + ".damaged"); err == nil {
		t.Error("the file was taken for damaged")
	}
}

// After a power cut that tore the file, whatever is found is right, the rest is a miss, and the cache can be used. The
// file is torn in many ways: pages of an earlier state in the midst of a later one, zeros, noise, a lost end.
func TestTornFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cache.db")
	c := mustOpen(t, path)
	fill(t, c, 300)
	c.Close()
	early, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c = mustOpen(t, path)
	fill(t, c, 600)
	c.Drop(t.Context(), func(rec cachedb.Record) bool { return rec.Key[0]%3 == 0 })
	fill(t, c, 600)
	c.Close()
	late, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range 60 {
		path := filepath.Join(dir, "torn.db")
		for _, suffix := range []string{"", ".damaged", ".new", ".note"} {
			os.Remove(path + suffix)
		}
		if err := os.WriteFile(path, tear(early, late, seed), 0o600); err != nil {
			t.Fatal(err)
		}
		pretendPowerCut(t, path, "open")
		c, err := cachedb.Open(path)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got(t, c, 600)
		fill(t, c, 600)
		if err := c.Flush(t.Context()); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if n := got(t, c, 600); n != 600 {
			t.Errorf("seed %d: %d records are left", seed, n)
		}
		if err := c.Close(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// tear returns what may be left of a file that was on its way from early to late.
func tear(early, late []byte, seed int) []byte {
	rnd := uint64(seed)*0x9e3779b97f4a7c15 + 1
	next := func(n int) int {
		rnd ^= rnd << 13
		rnd ^= rnd >> 7
		rnd ^= rnd << 17
		return int(rnd>>1) % n
	}
	out := append([]byte{}, late...)
	pageSize := os.Getpagesize()
	for range 1 + next(6) {
		at := next(len(out)/pageSize) * pageSize
		p := out[at : at+pageSize]
		switch kind := next(5); {
		case kind < 2 && at+pageSize <= len(early):
			copy(p, early[at:])
		case kind == 2:
			clear(p)
		case kind == 3:
			for i := range p {
				p[i] = byte(next(256))
			}
		default:
			p[next(pageSize)] ^= 1 << next(8)
		}
	}
	if next(4) == 0 {
		out = out[:next(len(out))]
	}
	return out
}

// A file that is none is moved aside, whatever the note says, and so is one whose check has killed the process.
func TestNotADatabase(t *testing.T) {
	for _, what := range []string{"open", "closed", "checking", "nonsense", ""} {
		path := filepath.Join(t.TempDir(), "cache.db")
		if err := os.WriteFile(path, []byte(strings.Repeat("this is no database", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		if what != "" {
			pretendPowerCut(t, path, what)
		}
		c := mustOpen(t, path)
		fill(t, c, 10)
		if n := got(t, c, 10); n != 10 {
			t.Errorf("%q: %d records", what, n)
		}
		if _, err := os.Stat(path + ".damaged"); err != nil {
			t.Errorf("%q: %v", what, err)
		}
	}
}

// A note that says that a check did not end has the file moved aside unread.
func TestCheckIsTriedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	c := mustOpen(t, path)
	fill(t, c, 10)
	c.Close()
	pretendPowerCut(t, path, "checking")
	c = mustOpen(t, path)
	if n := got(t, c, 10); n != 0 {
		t.Errorf("%d records were read", n)
	}
}

// A record is read under the key that it was written for and with the bytes that were written, or not at all.
func TestDamagedRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	c := mustOpen(t, path)
	fill(t, c, 2)
	c.Close()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	k0, k1 := solvertest.Key(0), solvertest.Key(1)
	var whole, other []byte
	db.View(func(tx *bbolt.Tx) error {
		whole = bytes.Clone(tx.Bucket([]byte("solver-records-1")).Get(k0[:]))
		other = bytes.Clone(tx.Bucket([]byte("solver-records-1")).Get(k1[:]))
		return nil
	})
	c, err = cachedb.New(db)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	try := func(v []byte) error {
		db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("solver-records-1")).Put(k0[:], v) })
		_, err := c.Get(t.Context(), k0)
		return err
	}
	if err := try(whole); err != nil {
		t.Fatal(err)
	}
	bad := [][]byte{other, {}, whole[:3], whole[:4], whole[:len(whole)-1], append(bytes.Clone(whole), 0)}
	for i := range whole {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1 << (i % 8)
		bad = append(bad, flipped)
	}
	for i, v := range bad {
		if err := try(v); !errors.Is(err, solver.ErrMiss) {
			t.Errorf("damage %d: got %v", i, err)
		}
	}
	for rec, err := range c.Records(t.Context()) {
		if err != nil || rec.Key != k1 {
			t.Errorf("got record %s, %v", rec.Key.Short(), err)
		}
	}
}

// Uses are written at last when the file is closed, without a Put.
func TestUsesOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	c := mustOpen(t, path)
	fill(t, c, 1)
	c.Close()
	c = mustOpen(t, path)
	got(t, c, 1)
	c.Close()
	c = mustOpen(t, path)
	if rec, err := c.Lookup(t.Context(), solvertest.Key(0)); err != nil || rec.Uses != 1 {
		t.Errorf("got %+v, %v", rec, err)
	}
}

// A solver that uses the cache finds everything again after a restart.
func TestSolver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	w := &solvertest.World{}
	g := solvertest.Chain(50)
	for range 2 {
		c := mustOpen(t, path)
		s := solver.New(w, c, solver.Options{})
		if _, err := s.Solve(t.Context(), &solver.Build{Targets: g.Inputs("v49")}); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if n := len(w.Ran()); n != 50 {
		t.Errorf("%d runs", n)
	}
}

func BenchmarkPut(b *testing.B) {
	c := mustOpen(b, filepath.Join(b.TempDir(), "cache.db"))
	i := 0
	for b.Loop() {
		i++
		c.Put(b.Context(), solvertest.Key(i), result(i))
		c.Describe(b.Context(), solvertest.Key(i), solver.Record{Document: strings.Repeat("x", 500)})
	}
}

func BenchmarkGet(b *testing.B) {
	c := mustOpen(b, filepath.Join(b.TempDir(), "cache.db"))
	fill(b, c, 10_000)
	c.Flush(b.Context())
	i := 0
	for b.Loop() {
		i++
		if _, err := c.Get(b.Context(), solvertest.Key(i%10_000)); err != nil {
			b.Fatal(err)
		}
	}
}

// A note that a killed process was writing is removed when the cache is opened again, whatever its directory is called.
func TestUnfinishedNotes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a[b", "cache.db")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	left := path + ".note-123"
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", left, err)
	}
}
