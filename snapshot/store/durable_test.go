package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/boxbuild/boxbuild/snapshot"
)

// A kill keeps what was never synced; a power cut keeps what was, and only that.
func TestPowerCut(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	f.kill()
	f.want("a")
	f.commit("b", "a")
	f.must(f.Sync(t.Context()))
	f.commit("c", "b")
	f.kill()
	f.want("a", "b", "c")
	f.powerCut("c")
	f.want("a", "b")
	if got := f.names(); strings.Join(got, " ") != "a b" {
		t.Errorf("left are %v", got)
	}
	// The next power cut finds the same.
	f.powerCut()
	f.want("a", "b")
}

// A snapshot that is on the disk is dropped if what it stands on is not.
func TestPowerCutDropsChildren(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	f.commit("b", "a")
	f.commit("c", "b")
	f.must(f.Sync(t.Context()))
	f.Crash()
	// As if the line of b had not reached the disk though that of c has.
	b, err := os.ReadFile(filepath.Join(f.dir, logName))
	f.must(err)
	var kept []string
	for l := range strings.Lines(string(b)) {
		if !strings.HasPrefix(l, "b ") {
			kept = append(kept, l)
		}
	}
	f.must(os.WriteFile(filepath.Join(f.dir, logName), []byte(strings.Join(kept, "")), 0o600))
	f.opts.BootID = "boot2"
	f.reopen()
	f.want("a")
}

// An ID that was synced, removed and committed again is not believed to be synced.
func TestPowerCutAfterReuse(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	f.must(f.Sync(t.Context()))
	f.must(f.Remove(t.Context(), "a"))
	f.commit("a", "")
	f.powerCut("a")
	f.want()
}

// What an earlier process of the same boot has not synced is synced by the next.
func TestSyncGoesOn(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	f.kill()
	f.must(f.Sync(t.Context()))
	f.powerCut()
	f.want("a")
}

// Close writes out everything: after an orderly end a reboot costs nothing.
func TestCloseSyncs(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	f.commit("b", "a")
	f.must(f.Close())
	f.opts.BootID = "boot2"
	f.reopen()
	f.want("a", "b")
}

// Without a boot marker nothing but the log is believed.
func TestMarkerLost(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	f.must(f.Sync(t.Context()))
	f.commit("b", "")
	f.Crash()
	f.must(os.Remove(filepath.Join(f.dir, bootName)))
	f.reopen()
	f.want("a")
}

// A log that a power cut has damaged anywhere loses lines, never makes one up, and takes new ones.
func TestLogDamage(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	f.commit("b", "")
	f.must(f.Sync(t.Context()))
	f.Crash()
	path := filepath.Join(f.dir, logName)
	whole, err := os.ReadFile(path)
	f.must(err)
	for cut := range whole {
		f.must(os.WriteFile(path, append(whole[:cut:cut], make([]byte, cut%3)...), 0o600))
		records, _, err := readLog(f.dir)
		f.must(err)
		lines := strings.Count(string(whole[:cut]), "\n")
		// The last line is whole without its newline too.
		for r := range records {
			if r.created != f.snaps[r.id].created.UnixNano() {
				continue // fits no snapshot
			}
			lines--
		}
		if lines > 0 || lines < -1 {
			t.Errorf("cut at %d: %d lines are not understood", cut, lines)
		}
	}
	f.must(os.WriteFile(path, whole[:len(whole)-3], 0o600))
	f.reopen()
	f.commit("c", "")
	f.must(f.Sync(t.Context()))
	f.powerCut()
	if _, err := f.Stat(t.Context(), "c"); err != nil {
		t.Errorf("what was logged after the damage: %v", err)
	}
}

// The log does not grow for ever, and loses nothing when it is compacted, while others write to it.
func TestCompaction(t *testing.T) {
	f := newFixture(t)
	for i := range 200 {
		f.commit("x", "")
		f.must(f.Sync(t.Context()))
		if i < 199 {
			f.must(f.Remove(t.Context(), "x"))
		}
	}
	before, lines, err := readLog(f.dir)
	f.must(err)
	f.kill()
	f.commit("y", "x")
	f.must(f.Sync(t.Context()))
	f.must(f.Close())
	after, now, err := readLog(f.dir)
	f.must(err)
	if now > 2 || len(after) > 2 {
		t.Errorf("%d lines (%d records) of %d (%d) are left, want at most 2", now, len(after), lines, len(before))
	}
	f.opts.BootID = "boot2"
	f.reopen()
	f.want("x", "y")
}

// After an error of writing nothing of that batch is ever called durable, since the kernel reports such an error once;
// later batches are.
func TestSyncError(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	boom := errors.New("boom")
	sync := f.flusher.sync
	f.flusher.sync = func() error { return boom }
	if err := f.Sync(t.Context()); !errors.Is(err, boom) {
		t.Errorf("syncing: %v", err)
	}
	f.flusher.sync = sync
	f.commit("b", "")
	f.must(f.Sync(t.Context()))
	f.want("a", "b")
	// Whoever is about to make something durable depend on it is told, however late.
	f.commit("c", "a")
	for id, lost := range map[snapshot.ID]bool{"a": true, "b": false, "c": true} {
		if err := f.Sync(t.Context(), "b", id); (err != nil) != lost {
			t.Errorf("syncing %s: %v", id, err)
		}
	}
	f.powerCut("a")
	f.want("b")
	f.commit("a", "")
	f.must(f.Sync(t.Context(), "a"))
}

// If the log cannot be written, that is tried again.
func TestLogError(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	good := f.flusher.file
	bad, err := os.Open(good.Name())
	f.must(err)
	f.flusher.file = bad
	if err := f.Sync(t.Context()); err == nil {
		t.Error("writing to a file that is open for reading works")
	}
	f.must(bad.Close())
	f.flusher.file = good
	f.must(f.Sync(t.Context()))
	f.powerCut()
	f.want("a")
}

// Sync can be given up on while another one is at it.
func TestSyncCancelled(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	entered, leave := make(chan struct{}), make(chan struct{})
	f.flusher.sync = func() error { close(entered); <-leave; return nil }
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f.Sync(t.Context()); err != nil {
			t.Error(err)
		}
	})
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Sync(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	close(leave)
	wg.Wait()
}

// However commits, removals, syncs, kills and power cuts follow one another, what is there afterwards is whole, and
// all of what was synced and not removed is there.
func TestRandomCrashes(t *testing.T) {
	f := newFixture(t)
	seed := uint64(1)
	next := func(n uint64) uint64 { // a generator that needs no import and is the same for ever
		seed = seed*6364136223846793005 + 1442695040888963407
		return (seed >> 33) % n
	}
	synced := map[snapshot.ID]bool{}
	there := map[snapshot.ID]snapshot.ID{}
	for range 600 {
		id := snapshot.ID(fmt.Sprintf("s%d", next(12)))
		_, exists := there[id]
		switch next(12) {
		case 0, 1, 2, 3, 4:
			if exists {
				continue
			}
			parent := snapshot.ID(fmt.Sprintf("s%d", next(12)))
			if _, ok := there[parent]; !ok {
				parent = ""
			}
			f.commit(id, parent)
			there[id] = parent
		case 5, 6:
			err := f.Remove(t.Context(), id)
			if err == nil {
				delete(there, id)
				delete(synced, id)
			} else if !errors.Is(err, snapshot.ErrInUse) {
				t.Fatal(err)
			}
		case 7:
			f.must(f.Sync(t.Context()))
			for id := range there {
				synced[id] = true
			}
		case 8:
			f.kill()
		case 9:
			var lost []snapshot.ID
			for id := range there {
				if !synced[id] {
					lost = append(lost, id)
					delete(there, id)
				}
			}
			f.powerCut(lost...)
		}
		var want []snapshot.ID
		for id := range there {
			want = append(want, id)
		}
		f.want(want...)
		if t.Failed() {
			return
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("abc 123")
	f.Add("abc  -1")
	f.Add("../x 1")
	f.Fuzz(func(t *testing.T, line string) {
		r, ok := parseRecord(line)
		if !ok {
			return
		}
		if !valid(string(r.id)) {
			t.Errorf("%q: %q is no name", line, r.id)
		}
		if again, ok := parseRecord(strings.TrimSuffix(string(r.append(nil)), "\n")); !ok || again != r {
			t.Errorf("%q: written and read again it is %v", line, again)
		}
	})
}
