package main

import (
	"context"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/boxbuild/boxbuild/worker/api/native"
)

// What may be let go of is what is the program's own and is as the file has it.
func TestProgramMaps(t *testing.T) {
	const smaps = `00400000-00500000 r-xp 00001000 fe:00 12     /opt/bin/boxbuildd
Size:               1024 kB
Rss:                 512 kB
Anonymous:             0 kB
LazyFree:              0 kB
VmFlags: rd ex mr mw me
00500000-00600000 r--p 00101000 fe:00 12     /opt/bin/boxbuildd
Anonymous:             0 kB
00600000-00700000 r--p 00201000 fe:00 12     /opt/bin/boxbuildd
Anonymous:             8 kB
00700000-00800000 rw-p 00301000 fe:00 12     /opt/bin/boxbuildd
Anonymous:             0 kB
00800000-00900000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000100000 r-xp 00000000 fe:00 13     /lib/libc.so.6
Anonymous:             0 kB
7f0000200000-7f0000300000 r--s 00000000 fe:00 14     /srv/opt/bin/boxbuildd
Anonymous:             0 kB
7ffc00000000-7ffc00100000 r-xp 00000000 00:00 0      [vdso]
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0x500000}, {0x500000, 0x600000}}
	if got := programMaps([]byte(smaps), "/opt/bin/boxbuildd"); !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// A daemon that comes to rest drops what pools hold and what is mapped of its program, once; and goes on to work.
func TestRest(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // no other collection empties the pool
	pool := sync.Pool{}
	fill := func() weak.Pointer[[1 << 20]byte] {
		b := new([1 << 20]byte)
		pool.Put(b)
		return weak.Make(b)
	}
	held := fill()
	before := mapped(t)
	var r rest
	then := time.Now()
	r.tick(then.Add(restAfter), then, false)
	r.tick(then.Add(restAfter-1), then, true)
	if held.Value() == nil {
		t.Error("it gave memory back while it was busy, or too early")
	}
	r.tick(then.Add(restAfter), then, true)
	if held.Value() != nil {
		t.Error("a pool still holds a buffer")
	}
	if after := mapped(t); after >= before {
		t.Errorf("%d kB of memory that is a file's are mapped, %d kB before", after, before)
	}
	n := forced()
	if r.tick(then.Add(2*restAfter), then, true); forced() != n {
		t.Error("it did so again")
	}
}

// forced returns how many collections have been asked for.
func forced() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumForcedGC
}

// mapped returns how many kB of files are mapped.
func mapped(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^RssFile:\s+(\d+) kB$`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no RssFile in %s", status)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A daemon rests while containers run and clients are there, though it stays for them.
func TestRestingIsNotUnused(t *testing.T) {
	busy := false
	s := &server{
		presence: &presence{}, native: native.New(native.Options{}),
		daemon: &daemon{Gate: newGate(nil), Busy: func() bool { return busy }},
	}
	check := func(what string, wantRest, wantUnused bool) {
		t.Helper()
		if _, resting := s.restSince(); resting != wantRest || s.unused() != wantUnused {
			t.Errorf("%s: it rests: %v, is unused: %v", what, resting, s.unused())
		}
	}
	check("nothing", true, true)
	busy = true
	check("a container", true, false)
	busy = false
	s.presence.enter()
	check("a client", true, false)
	var build context.CancelCauseFunc = func(error) {}
	if err := s.daemon.Gate.enter(&build); err != nil {
		t.Fatal(err)
	}
	check("a build", false, false)
	s.daemon.Gate.leave(&build)
	s.presence.leave()
	check("nothing again", true, true)
}
