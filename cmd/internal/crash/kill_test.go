package crash

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// rounds is how often the daemon is killed.
const rounds = 50

// random returns a source of chance that CRASH_SEED makes the same again. It is for one goroutine.
func random(t testing.TB) *rand.Rand {
	seed, err := strconv.ParseUint(os.Getenv("CRASH_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("CRASH_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// A ledger is what the store has to contain: what clients were told that it does.
type ledger struct {
	mu      sync.Mutex
	images  map[string]string          // guarded by mu; name to the text of the image's file /result
	moving  map[string]map[string]bool // guarded by mu; names that were being given when the daemon died: what they may be
	removed map[string]bool            // guarded by mu
}

func (l *ledger) add(name, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.images[name] = text
}

// attempt notes that a name is being given to another image; done notes that it has been.
func (l *ledger) attempt(name, text string) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.moving[name] == nil {
		l.moving[name] = map[string]bool{}
	}
	l.moving[name][text] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.moving[name] = map[string]bool{text: true}
	}
}

// drop takes an image out before it is removed, and returns its name; "" if there is none.
func (l *ledger) drop(prefix string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(l.images)) {
		if strings.HasPrefix(name, prefix) {
			delete(l.images, name)
			return name
		}
	}
	return ""
}

// TestKill kills the daemon at a random instant, many times, while clients build, import, tag and remove. Whatever they
// were told is done must be so afterwards, with the right content; nothing may be left on the machine; and when all
// images are removed in the end, nothing may be left in the store.
func TestKill(t *testing.T) {
	rnd := random(t)
	h := newHost(t, "")
	l := &ledger{images: map[string]string{}, moving: map[string]map[string]bool{}, removed: map[string]bool{}}
	h.start()
	h.importBusybox()
	clients := []*client{newClient(h, l, "a", rnd), newClient(h, l, "b", rnd), newClient(h, l, "c", rnd)}
	last := map[string]bool{}
	for round := range rounds {
		delay := time.Duration(rnd.IntN(350)) * time.Millisecond
		dead := make(chan struct{})
		var work sync.WaitGroup
		for i, c := range clients {
			do := c.build
			if i == 2 {
				do = c.store
			}
			work.Go(func() {
				for {
					select {
					case <-dead:
						return
					default:
						do(round)
					}
				}
			})
		}
		time.Sleep(delay)
		h.kill()
		close(dead)
		work.Wait()
		h.checkCrashed()
		if round%5 == 0 {
			h.launch() // one that dies while it cleans up after the last one
			time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
			h.kill()
			h.checkCrashed()
		}
		h.start()
		if n := len(h.cgroups()); n > 10 {
			t.Errorf("%d cgroups after a restart", n)
		}
		if d := append(h.devices(), h.tables()...); len(d) > 0 {
			t.Errorf("an earlier daemon's network after a restart: %v", d)
		}
		// What is new this time is where damage would be; all is looked at in the end.
		for name := range l.images {
			if !last[name] {
				l.check(h, name)
				last[name] = true
			}
		}
		for name := range l.moving {
			l.check(h, name)
		}
		if t.Failed() {
			t.Fatalf("round %d, after %v", round, delay)
		}
	}
	builds := 0
	for _, c := range clients {
		builds += c.done
	}
	t.Logf("%d of %d calls came to an end; %d images", builds, builds+clients[0].lost+clients[1].lost+clients[2].lost, len(l.images))
	for name := range l.images {
		l.check(h, name)
	}
	for name := range l.removed {
		if h.run("", "image", "inspect", name).err == nil {
			t.Errorf("%s was removed, and is there", name)
		}
	}
	h.checkEmpties()
}

// check compares an image with what it has to be: what inspect knows, and the files that it exports.
func (l *ledger) check(h *host, name string) {
	h.t.Helper()
	want, moves := l.images[name], l.moving[name]
	if r := h.run("", "image", "inspect", name); r.err != nil {
		if moves == nil {
			h.t.Errorf("%s is lost: %v", name, r)
		}
		return
	}
	r := h.run("FROM "+name+"\n", "build", "-q", "-o", "-", "-")
	files, err := readTar(r.stdout)
	if r.err != nil || err != nil {
		h.t.Errorf("%s cannot be exported: %v, %s", name, err, r.stderr)
		return
	}
	got := files["result"]
	if moves == nil && got != want || moves != nil && !moves[got] {
		h.t.Errorf("%s has %q, want %q %v", name, got, want, moves)
	}
}

// checkEmpties removes every image and all cache, and checks that the store has no snapshot and no blob then.
func (h *host) checkEmpties() {
	h.t.Helper()
	if ids := strings.Fields(h.must("", "images", "-aq")); len(ids) > 0 {
		slices.Sort(ids)
		h.must("", append([]string{"rmi", "-f"}, slices.Compact(ids)...)...)
	}
	// What is younger than a minute is spared: whoever made it may be about to refer to it.
	blobs, err := filepath.Glob(h.root + "/blobs/sha256/*")
	if err != nil {
		h.t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	for _, b := range blobs {
		if err := os.Chtimes(b, old, old); err != nil {
			h.t.Error(err)
		}
	}
	h.must("", "prune", "-af")
	h.checkStore()
}

// checkStore checks that no snapshot and no blob is on the disk, once what has been thrown away is gone.
func (h *host) checkStore() {
	h.t.Helper()
	for _, pattern := range []string{"snapshots/*/*", "blobs/*/*"} {
		h.eventually("nothing is left in "+pattern, func() bool {
			found, err := filepath.Glob(filepath.Join(h.root, pattern))
			if err != nil {
				h.t.Fatal(err)
			}
			return len(found) == 0
		})
	}
}

// A client works for one person.
type client struct {
	host       *host
	ledger     *ledger
	name       string
	dir        string
	rnd        *rand.Rand
	n          int
	done, lost int
}

// dockerfile has a stage that all clients share, so that they wait for one another's steps, and steps that depend on
// content and on arguments.
const dockerfile = `FROM busybox AS shared
ARG ROUND
RUN echo shared $ROUND > /shared
FROM busybox
COPY content /content
ARG V
RUN echo "$V:$(cat /content)" > /own && mkdir /d && cp /content /d
COPY --from=shared /shared /d/
RUN cat /own /d/content /d/shared > /result
`

func newClient(h *host, l *ledger, name string, rnd *rand.Rand) *client {
	return &client{
		host: h, ledger: l, name: name, rnd: rand.New(rand.NewPCG(rnd.Uint64(), 0)),
		dir: h.context(map[string]string{"Dockerfile": dockerfile}),
	}
}

// next writes a content that often is an earlier one. All have the same size and the same time of modification.
func (c *client) next() string {
	c.n++
	text := fmt.Sprintf("%s%08d", c.name, c.n-c.rnd.IntN(min(c.n, 3)))
	path := filepath.Join(c.dir, "content")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		c.host.t.Error(err)
	}
	if err := os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
		c.host.t.Error(err)
	}
	return text
}

// build builds once, under a name of its own and under one that moves; and then looks at what came of it.
func (c *client) build(round int) {
	text := c.next()
	arg := c.rnd.IntN(2)
	want := fmt.Sprintf("%d:%s\n%sshared %d\n", arg, text, text, round)
	name, moving := fmt.Sprintf("%s:%d", c.name, c.n), c.name+":moving"
	done := c.ledger.attempt(moving, want)
	args := []string{"build", "-q", "--build-arg", fmt.Sprint("ROUND=", round), "--build-arg", fmt.Sprint("V=", arg)}
	if r := c.host.run("", append(args, "-t", name, "-t", moving, c.dir)...); r.err != nil {
		c.lost++
		return
	}
	done()
	c.ledger.add(name, want)
	c.done++
	if c.rnd.IntN(2) == 0 {
		return
	}
	r := c.host.run("", append(args, "-o", "-", c.dir)...)
	if r.err != nil {
		return
	}
	files, err := readTar(r.stdout)
	if err != nil {
		c.host.t.Error(err)
	}
	if got := files["result"]; got != want {
		c.host.t.Errorf("%s is %q, want %q", name, got, want)
	}
}

// store imports an image and gives it a second name, and removes one.
func (c *client) store(int) {
	c.n++
	text := fmt.Sprintf("%s%d", c.name, c.n)
	name, tag := fmt.Sprintf("%s:%d", c.name, c.n), fmt.Sprintf("tag-%s:%d", c.name, c.n)
	if r := c.host.run(string(writeTar(file("result", text))), "import", "-", name); r.err != nil {
		c.lost++
		return
	}
	c.ledger.add(name, text)
	if r := c.host.run("", "tag", name, tag); r.err != nil {
		c.lost++
		return
	}
	c.ledger.add(tag, text)
	c.done++
	// Of two names for one image; the other must stay.
	if gone := c.ledger.drop("c:"); gone != "" {
		if r := c.host.run("", "rmi", gone); r.err == nil {
			c.ledger.mu.Lock()
			c.ledger.removed[gone] = true
			c.ledger.mu.Unlock()
		}
	}
}
