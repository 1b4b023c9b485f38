package filesync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// pipe is one end of a Stream in memory that counts what it sends.
type pipe struct {
	out  chan<- []byte
	in   <-chan []byte
	done chan struct{}
	once *sync.Once
	sent *int
	size *int
}

func newPipe() (a, b *pipe) {
	x, y, done, once := make(chan []byte, 1), make(chan []byte, 1), make(chan struct{}), &sync.Once{}
	return &pipe{x, y, done, once, new(int), new(int)}, &pipe{y, x, done, once, new(int), new(int)}
}

func (p *pipe) Send(b []byte) error {
	*p.sent++
	*p.size += len(b)
	select {
	case p.out <- bytes.Clone(b):
		return nil
	case <-p.done:
		return io.ErrClosedPipe
	}
}

func (p *pipe) Recv() ([]byte, error) {
	select {
	case b := <-p.in:
		return b, nil
	case <-p.done:
		return nil, io.EOF
	}
}

func (p *pipe) close() { p.once.Do(func() { close(p.done) }) }

// connect serves a directory to a source that receives into a store.
func connect(t testing.TB, dir string, store *Store) (src Source, daemon, client *pipe) {
	t.Helper()
	daemon, client = newPipe()
	local, err := Dir(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), local, client) }()
	src = Remote(daemon, store, RemoteOptions{})
	t.Cleanup(func() {
		_ = src.Close()
		daemon.close()
		<-served
		_ = local.Close()
	})
	return src, daemon, client
}

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := NewStore(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A remote directory is the same tree as a local one, down to the contents, over random changes; an unchanged one costs
// one message each way, and a changed one no more than what has changed.
func TestRemoteEqualsLocal(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	dir := t.TempDir()
	write(t, dir, "d0/x=0", "d1/d2/x=1", "f=2", "l -> f", "big="+strings.Repeat("0123456789", 300_000))
	_ = os.Chmod(dir+"/f", 0o4755|os.ModeSetuid)
	_ = unix.Setxattr(dir+"/f", "user.k", []byte("v"), 0)
	store := newStore(t)
	for range 25 {
		mutate(t, rng, dir)
		src, daemon, client := connect(t, dir, store)
		sel := Selection{Exclude: []string{"skip*"}}
		got, want := tree(t, src, sel), tree(t, source(t, dir, nil), sel)
		if rootOf(got) != rootOf(want) || paths(t, got) != paths(t, want) {
			t.Fatalf("got\n%s\nwant\n%s", paths(t, got), paths(t, want))
		}
		sameContents(t, got, want)
		before, size := *daemon.sent+*client.sent, *client.size
		tree(t, src, sel)
		if n := *daemon.sent + *client.sent - before; n != 2 {
			t.Errorf("an unchanged tree took %d messages", n)
		}
		if *client.size-size > 100 {
			t.Errorf("an unchanged tree took %d bytes", *client.size-size)
		}
	}
	// After a restart nothing but the listings' digests is compared.
	again, err := NewStore(store.dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	src, _, client := connect(t, dir, again)
	got := tree(t, src, Selection{})
	sameContents(t, got, tree(t, source(t, dir, nil), Selection{}))
	if *client.size > 100_000 {
		t.Errorf("%d bytes were sent again", *client.size)
	}
}

func sameContents(t *testing.T, a, b treehash.Tree) {
	t.Helper()
	items, err := treehash.Match(t.Context(), b, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if !it.Entry.IsRegular() {
			continue
		}
		var data [2][]byte
		for i, tr := range []treehash.Tree{a, b} {
			r, err := tr.Open(t.Context(), it.Entry.Path)
			if err != nil {
				t.Fatal(err)
			}
			if data[i], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
			_ = r.Close()
		}
		if !bytes.Equal(data[0], data[1]) {
			t.Errorf("%s differs", it.Rel)
		}
	}
}

// What fails at the client is an error here that says it.
func TestRemoteError(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f=1")
	src, _, _ := connect(t, dir, newStore(t))
	if _, err := src.Tree(t.Context(), Selection{Exclude: []string{"["}}); err == nil || !strings.Contains(err.Error(), "exclude patterns") {
		t.Errorf("got %v", err)
	}
	if _, err := src.Tree(t.Context(), Selection{}); err == nil {
		t.Error("a source that has failed goes on")
	}
}

// hostile is a client that says it has one root directory, and then what a test wants.
func hostile(t *testing.T, entries func(b []byte) []byte, n int, data ...[]byte) error {
	t.Helper()
	store := newStore(t)
	daemon, client := newPipe()
	defer daemon.close()
	list := entries(appendUvarint(nil, n))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			kind, _, err := recv(client)
			if err != nil {
				return
			}
			switch kind {
			case msgSelect:
				sum := listingSum(list, n)
				_ = client.Send(append(append([]byte{msgRoot}, sum[:]...), 0))
			case msgDirs:
				sum := listingSum(list, n)
				_ = client.Send(appendStr(append([]byte{msgListing, 0}, sum[:]...), string(list)))
			case msgFiles:
				for _, d := range data {
					if client.Send(append([]byte{msgData}, d...)) != nil {
						return
					}
				}
			}
		}
	})
	src := Remote(daemon, store, RemoteOptions{MaxEntries: 1000, MaxBytes: 1 << 20})
	_, err := src.Tree(t.Context(), Selection{})
	_ = src.Close()
	daemon.close()
	wg.Wait()
	if left, _ := os.ReadDir(filepath.Join(store.dir, "new")); len(left) != 0 {
		t.Errorf("%d half-received files are left", len(left))
	}
	return err
}

func appendUvarint(b []byte, n int) []byte {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// listingSum is the digest that makes a listing the right one, whatever is in it.
func listingSum(list []byte, n int) solver.Digest {
	d := &decoder{b: string(list)}
	d.uvarint()
	var es []treehash.Entry
	var sums []solver.Digest
	for range n {
		var e treehash.Entry
		sums = append(sums, d.dirEntry(&e))
		es = append(es, e)
	}
	sum, _ := treehash.HashDir(n, func(b []byte, i int) []byte { return treehash.AppendEntry(b, es[i].Path, &es[i], &sums[i]) }, nil)
	return sum
}

func wireEntry(b []byte, name string, mode uint32, size int64, sum solver.Digest) []byte {
	e := &treehash.Entry{Mode: mode, Size: size, Link: "t"}
	b = treehash.AppendEntry(b, name, e, &sum)
	b = appendUvarint(b, int(size))
	return append(b, 0, 0)
}

// What no directory can contain, and what was not asked for, is an error, and nothing of it is kept.
func TestHostileClient(t *testing.T) {
	content := sha256Sum([]byte("x"))
	file := func(name string) func([]byte) []byte {
		return func(b []byte) []byte { return wireEntry(b, name, unix.S_IFREG|0o644, 1, content) }
	}
	if err := hostile(t, file("good"), 1, []byte("x")); err != nil {
		t.Fatalf("what is right is refused: %v", err)
	}
	for _, name := range []string{"", ".", "..", "../x", "/x", "a/b", "a/../../x", "a\x00b", strings.Repeat("n", 256)} {
		if err := hostile(t, file(name), 1, []byte("x")); !protocolError(err) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	two := func(a, b string) func([]byte) []byte {
		return func(l []byte) []byte {
			return wireEntry(wireEntry(l, a, unix.S_IFLNK|0o777, 0, content), b, unix.S_IFREG|0o644, 1, content)
		}
	}
	for _, names := range [][2]string{{"a", "a"}, {"b", "a"}, {"a", "a/x"}} {
		if err := hostile(t, two(names[0], names[1]), 2, []byte("x")); !protocolError(err) {
			t.Errorf("names %q: %v", names, err)
		}
	}
	for _, mode := range []uint32{0, 0o170000, unix.S_IFSOCK | 1<<20, unix.S_IFREG | 1<<20} {
		bad := func(b []byte) []byte { return wireEntry(b, "f", mode, 0, content) }
		if err := hostile(t, bad, 1, []byte("x")); err == nil {
			t.Errorf("mode %o was taken", mode)
		}
	}
	for what, data := range map[string][][]byte{
		"other bytes": {[]byte("y")}, "more bytes": {[]byte("xx")}, "an empty message": {{}}, "too big": {make([]byte, maxMessage)},
	} {
		if err := hostile(t, file("f"), 1, data...); !protocolError(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	huge := func(b []byte) []byte { return wireEntry(b, "f", unix.S_IFREG|0o644, 1<<40, content) }
	if err := hostile(t, huge, 1); !protocolError(err) {
		t.Errorf("a huge file: %v", err)
	}
	many := func(b []byte) []byte {
		for i := range 2000 {
			b = wireEntry(b, fmt.Sprintf("%05d", i), unix.S_IFLNK|0o777, 0, content)
		}
		return b
	}
	if err := hostile(t, many, 2000); !protocolError(err) {
		t.Errorf("too many files: %v", err)
	}
}

func sha256Sum(b []byte) solver.Digest { return sha256.Sum256(b) }

func protocolError(err error) bool {
	var p *ProtocolError
	return errors.As(err, &p)
}

// Directories that contain each other twice over would be more files than there is room for; their number is bounded
// before anything is made of them.
func TestHostileFanOut(t *testing.T) {
	daemon, client := newPipe()
	defer daemon.close()
	lists := map[solver.Digest][]byte{}
	list := appendUvarint(nil, 0)
	sum := listingSum(list, 0)
	lists[sum] = list
	for range 64 {
		list = wireEntry(wireEntry(appendUvarint(nil, 2), "a", unix.S_IFDIR|0o755, 0, sum), "b", unix.S_IFDIR|0o755, 0, sum)
		sum = listingSum(list, 2)
		lists[sum] = list
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			kind, d, err := recv(client)
			if err != nil {
				return
			}
			switch kind {
			case msgSelect:
				_ = client.Send(append(append([]byte{msgRoot}, sum[:]...), 0))
			case msgDirs:
				d.byte()
				msg := []byte{msgListing, 0}
				asked := d.digests()
				for i := 0; i < len(asked); i++ {
					msg = appendStr(append(msg, asked[i][:]...), string(lists[asked[i]]))
					// Answer a recursive question in full: each directory has one kind of child.
					if l, err := parseListing(string(lists[asked[i]]), asked[i]); err == nil && len(l.sums) > 0 {
						asked = append(asked, l.sums[0])
					}
				}
				_ = client.Send(msg)
			}
		}
	})
	_, err := Remote(daemon, newStore(t), RemoteOptions{}).Tree(t.Context(), Selection{})
	if !protocolError(err) {
		t.Errorf("got %v", err)
	}
	daemon.close()
	wg.Wait()
}

// Whatever a client sends ends in an error or a tree, and leaves in the store what digests name and nothing else.
func FuzzRemote(f *testing.F) {
	dir := f.TempDir()
	write(f, dir, "a/b=1", "a/c=2", "l -> a", "d=3")
	var recorded bytes.Buffer
	daemon, client := newPipe()
	local, _ := Dir(dir, Options{})
	go func() { _ = Serve(context.Background(), local, &recording{client, &recorded}) }()
	_, err := Remote(daemon, newStore(f), RemoteOptions{}).Tree(context.Background(), Selection{})
	daemon.close()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(recorded.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		store := newStore(t)
		d, c := newPipe()
		var wg sync.WaitGroup
		wg.Go(func() { // answers come whatever is asked
			for len(b) >= 2 {
				n := min(len(b)-2, int(b[0])|int(b[1])<<8)
				if c.Send(b[2:2+n]) != nil {
					return
				}
				b = b[2+n:]
			}
			c.close()
		})
		wg.Go(func() {
			for {
				if _, err := c.Recv(); err != nil {
					return
				}
			}
		})
		src := Remote(d, store, RemoteOptions{MaxEntries: 10_000, MaxBytes: 1 << 20})
		_, _ = src.Tree(t.Context(), Selection{})
		_ = src.Close()
		d.close()
		wg.Wait()
		list, _ := os.ReadDir(filepath.Join(store.dir, "files"))
		for _, e := range list {
			data, _ := os.ReadFile(filepath.Join(store.dir, "files", e.Name()))
			if sha256Sum(data).String() != e.Name() {
				t.Errorf("%s has other content", e.Name())
			}
		}
	})
}

// recording writes down what is sent, each message with its length before it.
type recording struct {
	*pipe
	b *bytes.Buffer
}

func (r *recording) Send(m []byte) error {
	r.b.Write([]byte{byte(len(m)), byte(len(m) >> 8)})
	r.b.Write(m)
	return r.pipe.Send(m)
}

// What the daemon asks is taken no more on trust than what the client answers.
func FuzzServe(f *testing.F) {
	dir := f.TempDir()
	write(f, dir, "a/b=1", "l -> a")
	f.Add([]byte{msgSelect, 1, 0, 0, 0}, []byte{msgDirs, 1}, []byte{msgFiles})
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		daemon, client := newPipe()
		local, _ := Dir(dir, Options{})
		defer local.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = Serve(t.Context(), local, client)
			client.close()
		})
		wg.Go(func() {
			for {
				if _, err := daemon.Recv(); err != nil {
					return
				}
			}
		})
		for _, m := range [][]byte{a, b, c} {
			if daemon.Send(m) != nil {
				break
			}
		}
		daemon.close()
		wg.Wait()
	})
}

// A store that holds too much drops what nothing needs, and nothing else.
func TestStoreTrim(t *testing.T) {
	store, err := NewStore(t.TempDir(), 50_000)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	open := map[string]treehash.Tree{}
	for i := range rememberedTrees + 10 {
		write(t, dir, "f="+strings.Repeat(fmt.Sprint(i%10), 10_000+i), "g=same")
		src, _, _ := connect(t, dir, store)
		tr := tree(t, src, Selection{})
		if i == 0 {
			open["first"] = tr
		} else {
			_ = src.Close()
		}
		sameContents(t, tr, tree(t, source(t, dir, nil), Selection{}))
	}
	list, _ := os.ReadDir(filepath.Join(store.dir, "files"))
	if len(list) > rememberedTrees+3 {
		t.Errorf("%d files are kept", len(list))
	}
	r, err := open["first"].Open(t.Context(), "/f")
	if err != nil {
		t.Fatalf("the content of a tree in use is gone: %v", err)
	}
	_ = r.Close()
}

// What is pruned frees what it says, and nothing that an open tree needs.
func TestStorePrune(t *testing.T) {
	store := newStore(t)
	dir := t.TempDir()
	write(t, dir, "f="+strings.Repeat("a", 10_000), "g=same")
	src, _, _ := connect(t, dir, store)
	tree(t, src, Selection{})
	_ = src.Close()
	write(t, dir, "f="+strings.Repeat("b", 20_000))
	src, _, _ = connect(t, dir, store)
	open := tree(t, src, Selection{})
	if size, err := store.Usage(); err != nil || size != 30_004 {
		t.Errorf("%d bytes are there, %v", size, err)
	}
	for _, tt := range []struct{ limit, freed int64 }{{40_000, 0}, {25_000, 10_000}, {0, 0}} {
		if freed, err := store.Prune(tt.limit); err != nil || freed != tt.freed {
			t.Errorf("to %d: %d bytes are freed, %v", tt.limit, freed, err)
		}
	}
	sameContents(t, open, tree(t, source(t, dir, nil), Selection{}))
	_ = src.Close()
	if freed, err := store.Prune(0); err != nil || freed != 20_004 {
		t.Errorf("%d bytes are freed when all is closed, %v", freed, err)
	}
	// What is gone is asked for again.
	src, _, _ = connect(t, dir, store)
	sameContents(t, tree(t, src, Selection{}), tree(t, source(t, dir, nil), Selection{}))
}
