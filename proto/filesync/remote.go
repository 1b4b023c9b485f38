package filesync

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// RemoteOptions bound what a client may send.
type RemoteOptions struct {
	MaxEntries int   // files and directories of a tree; 2 million by default
	MaxBytes   int64 // of a tree's files; 1 TiB by default
}

func (o RemoteOptions) withDefaults() RemoteOptions {
	if o.MaxEntries <= 0 {
		o.MaxEntries = 2_000_000
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 1 << 40
	}
	return o
}

// Remote returns the directory that Serve serves at the other end of s, as a Source. Files are received into store. An
// unchanged tree costs one question and one answer, whatever its size.
//
// The client is not trusted: all it can do is to have the store take a tree of its choice, or an error.
func Remote(s Stream, store *Store, o RemoteOptions) Source {
	return &remote{s: s, store: store, o: o.withDefaults(), turn: make(chan struct{}, 1)}
}

type remote struct {
	s     Stream
	store *Store
	o     RemoteOptions
	turn  chan struct{} // held by the one who talks

	mu   sync.Mutex
	held []*node
	dead error // the stream is of no use any more
}

// Close implements Source.
func (r *remote) Close() error {
	r.mu.Lock()
	held := r.held
	r.held = nil
	r.mu.Unlock()
	for _, n := range held {
		r.store.release(n)
	}
	return nil
}

// Tree implements Source. When ctx ends the stream has to end too, or Tree waits for the client.
func (r *remote) Tree(ctx context.Context, sel Selection) (treehash.Tree, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if r.dead != nil {
		return nil, r.dead
	}
	t, err := r.transfer(ctx, sel)
	var large *LargeFileError
	if errors.As(err, &large) { // nothing is under way
		return nil, fmt.Errorf("reading the client's files: %w", err)
	}
	if err != nil {
		_ = r.s.Send(append([]byte{msgFail}, "the builder has given up"...))
		r.dead = fmt.Errorf("reading the client's files: %w", err)
		return nil, r.dead
	}
	return t, nil
}

func (r *remote) transfer(ctx context.Context, sel Selection) (treehash.Tree, error) {
	b := binary.AppendUvarint([]byte{msgSelect}, wireVersion)
	b = appendList(appendList(appendList(b, sel.Include), sel.Exclude), sel.Follow)
	if err := r.s.Send(b); err != nil {
		return nil, err
	}
	kind, d, err := recv(r.s)
	if err != nil {
		return nil, err
	}
	sum, mtime := d.digest(), d.varint()
	if kind != msgRoot || d.bad || d.b != "" {
		return nil, bad("message %d instead of a root", kind)
	}
	root := r.store.known(sum)
	if root == nil {
		if root, err = r.receive(ctx, sum, &sel); err != nil {
			return nil, err
		}
		if err := r.store.trim(); err != nil {
			r.store.release(root)
			return nil, err
		}
	}
	r.mu.Lock()
	r.held = append(r.held, root)
	r.mu.Unlock()
	open := func(p string, content solver.Digest) (int, error) {
		fd, err := r.store.open(p, content)
		if err != nil {
			r.store.forget(sum) // and have it sent again, the next time
		}
		return fd, err
	}
	return newTree(open, root, mtime), nil
}

// receive fetches a tree and has the store remember it.
func (r *remote) receive(ctx context.Context, sum solver.Digest, sel *Selection) (*node, error) {
	if err := r.store.busy.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	defer r.store.busy.Release(1)
	root, err := r.fetch(ctx, sum, sel)
	if err != nil {
		return nil, err
	}
	r.store.remember(root)
	return root, nil
}

// fetch gets what the store lacks of a tree.
func (r *remote) fetch(ctx context.Context, sum solver.Digest, sel *Selection) (*node, error) {
	f := &fetch{remote: r, lists: map[solver.Digest]*listing{}, counts: map[solver.Digest]int64{}}
	if err := f.listings(ctx, sum); err != nil {
		return nil, err
	}
	if n := f.count(sum, 0); n > int64(r.o.MaxEntries) {
		return nil, bad("more than %d files, or directories more than %d deep", r.o.MaxEntries, maxDepth)
	}
	root, err := f.build(sum, "/")
	if err != nil {
		return nil, err
	}
	if err := sel.allowsAll(root); err != nil {
		return nil, err
	}
	if err := f.contents(ctx); err != nil {
		return nil, err
	}
	root.sum = sum
	return root, nil
}

// A fetch is the transfer of one tree.
type fetch struct {
	*remote
	lists  map[solver.Digest]*listing
	counts map[solver.Digest]int64
	total  int64 // entries of all listings received
}

// listings collects the listings of all directories, from the store or else from the client, level by level. If not
// even the root's children are known, everything is asked for at once.
func (f *fetch) listings(ctx context.Context, root solver.Digest) error {
	level := []solver.Digest{root}
	for depth := 0; len(level) > 0; depth++ {
		if depth > maxDepth {
			return bad("directories more than %d deep", maxDepth)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var missing []solver.Digest
		for _, sum := range level {
			if f.lists[sum] != nil {
				continue
			}
			if l := f.store.listing(sum); l != nil {
				f.lists[sum] = l
			} else {
				missing = append(missing, sum)
			}
		}
		recursive := depth <= 1 && len(missing) == len(level) && len(level) > 0
		for len(missing) > 0 {
			n := min(askDirs, len(missing))
			if err := f.ask(missing[:n], recursive); err != nil {
				return err
			}
			missing = missing[n:]
		}
		level = f.below(level)
	}
	return nil
}

// below returns the directories in those of a level, each once.
func (f *fetch) below(level []solver.Digest) []solver.Digest {
	seen := map[solver.Digest]bool{}
	var next []solver.Digest
	for _, sum := range level {
		l := f.lists[sum]
		for i := range l.entries {
			if l.entries[i].IsDir() && !seen[l.sums[i]] {
				seen[l.sums[i]] = true
				next = append(next, l.sums[i])
			}
		}
	}
	return next
}

// ask gets the listings of directories from the client, and stores them.
func (f *fetch) ask(sums []solver.Digest, recursive bool) error {
	msg := []byte{msgDirs, 0}
	if recursive {
		msg[1] = 1
	}
	want := map[solver.Digest]bool{}
	for _, s := range sums {
		msg = append(msg, s[:]...)
		want[s] = true
	}
	if err := f.s.Send(msg); err != nil {
		return err
	}
	for more := true; more; {
		kind, d, err := recv(f.s)
		if err != nil {
			return err
		}
		if kind != msgListing {
			return bad("message %d instead of listings", kind)
		}
		more = d.byte() != 0
		for d.b != "" {
			sum := d.digest()
			text := d.str()
			if d.bad {
				return errListing
			}
			if !want[sum] {
				return bad("a listing that nobody has asked for")
			}
			delete(want, sum)
			l, err := parseListing(text, sum)
			if err != nil {
				return err
			}
			if f.total += int64(len(l.entries)) + 1; f.total > int64(f.o.MaxEntries) {
				return bad("more than %d files", f.o.MaxEntries)
			}
			f.lists[sum] = l
			for i := range l.entries {
				if recursive && l.entries[i].IsDir() && f.lists[l.sums[i]] == nil {
					want[l.sums[i]] = true
				}
			}
			if err := f.store.put(f.store.list(sum), []byte(text)); err != nil {
				return err
			}
		}
	}
	for sum := range want {
		if !recursive || f.lists[sum] == nil {
			return bad("the listing of a directory is missing")
		}
	}
	return nil
}

// count returns how many entries the tree below a directory has. Equal directories are one listing and may be in many
// places, so that few bytes could stand for more files than there are atoms: the sum is what is bounded.
func (f *fetch) count(sum solver.Digest, depth int) int64 {
	if n, ok := f.counts[sum]; ok {
		return n
	}
	tooMany := int64(f.o.MaxEntries) + 1
	if depth > maxDepth {
		return tooMany
	}
	l := f.lists[sum]
	n := int64(len(l.entries)) + 1
	for i := range l.entries {
		if l.entries[i].IsDir() {
			n = min(n+f.count(l.sums[i], depth+1), tooMany)
		}
	}
	f.counts[sum] = n
	return n
}

func (f *fetch) build(sum solver.Digest, dir string) (*node, error) {
	l := f.lists[sum]
	n, err := l.build(dir, func(i int, path string) (*node, error) { return f.build(l.sums[i], path) })
	if err != nil {
		return nil, err
	}
	n.sum = sum
	return n, nil
}

// A content is one that is missing.
type content struct {
	sum  solver.Digest
	size int64
}

// contents gets the contents that the store lacks. Questions are sent ahead of the answers.
func (f *fetch) contents(ctx context.Context) error {
	var missing []content
	sizes := map[solver.Digest]int64{}
	total := int64(0)
	for _, l := range f.lists {
		for i := range l.entries {
			e, sum := &l.entries[i], l.sums[i]
			if !e.IsRegular() {
				continue
			}
			if size, ok := sizes[sum]; ok {
				if size != e.Size {
					return bad("%q has two sizes", e.Path)
				}
				continue
			}
			sizes[sum] = e.Size
			if e.Size > f.o.MaxBytes-total {
				return bad("files of more than %d bytes", f.o.MaxBytes)
			}
			total += e.Size
			if !f.store.has(sum, e.Size) {
				missing = append(missing, content{sum, e.Size})
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	ahead := make(chan struct{}, 2)
	g.Go(func() error {
		for at := 0; at < len(missing); at += askFiles {
			select {
			case ahead <- struct{}{}:
			case <-ctx.Done():
				return nil // the receiver says why
			}
			msg := []byte{msgFiles}
			for _, c := range missing[at:min(at+askFiles, len(missing))] {
				msg = append(msg, c.sum[:]...)
			}
			if err := f.s.Send(msg); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		rc := &receiver{fetch: f}
		defer rc.close()
		for i, c := range missing {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := rc.file(c); err != nil {
				return err
			}
			if (i+1)%askFiles == 0 || i+1 == len(missing) {
				<-ahead
			}
		}
		if len(rc.data) > 0 {
			return bad("bytes after the last file")
		}
		return nil
	})
	return g.Wait()
}

// A receiver cuts what arrives into files.
type receiver struct {
	*fetch
	data []byte // received, not used yet
	f    *os.File
}

func (r *receiver) close() {
	if r.f != nil {
		_ = r.f.Close()
		_ = os.Remove(r.f.Name())
	}
}

// file receives one file, of exactly the size that its entry says, and takes it if its digest is right.
func (r *receiver) file(c content) error {
	var err error
	if r.f, err = r.store.create(); err != nil {
		return err
	}
	h := sha256.New()
	if err := r.bytes(h, c.size); err != nil {
		return err
	}
	if solver.Digest(h.Sum(nil)) != c.sum {
		return bad("the content of a file is not the one that was asked for")
	}
	if err := errors.Join(r.f.Close(), r.store.adopt(r.f.Name(), c.sum, c.size)); err != nil {
		return err
	}
	r.f = nil
	return nil
}

func (r *receiver) bytes(h hash.Hash, left int64) error {
	for left > 0 {
		if len(r.data) == 0 {
			kind, d, err := recv(r.s)
			if err != nil {
				return err
			}
			if kind != msgData || d.b == "" {
				return bad("message %d instead of data", kind)
			}
			r.data = []byte(d.b)
		}
		part := r.data[:min(left, int64(len(r.data)))]
		h.Write(part)
		if _, err := r.f.Write(part); err != nil {
			return err
		}
		left -= int64(len(part))
		r.data = r.data[len(part):]
	}
	return nil
}
