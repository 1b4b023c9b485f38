package filesync

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// Serve answers a daemon's questions about src, a source that Dir has returned, until the daemon has enough (the stream
// ends, which is no error) or something fails, which the daemon is then told.
func Serve(ctx context.Context, src Source, s Stream) error {
	v := &server{src: src, s: s}
	for {
		kind, d, err := recv(s)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = v.answer(ctx, kind, d)
		}
		if err != nil {
			var remote *remoteError
			if !errors.As(err, &remote) {
				_ = s.Send(append([]byte{msgFail}, err.Error()...)) // it may have been the stream that failed
			}
			return err
		}
	}
}

type server struct {
	src  Source
	s    Stream
	tree *clientTree
	dirs map[solver.Digest]*node  // of the tree
	file map[solver.Digest]string // a path for each content
}

func (v *server) answer(ctx context.Context, kind byte, d *decoder) error {
	switch kind {
	case msgSelect:
		return v.selects(ctx, d)
	case msgDirs:
		recursive := d.byte() != 0
		return v.listings(d.digests(), recursive)
	case msgFiles:
		return v.files(ctx, d.digests())
	}
	return bad("message %d", kind)
}

func (v *server) selects(ctx context.Context, d *decoder) error {
	version := d.uvarint()
	sel := Selection{Include: d.list(), Exclude: d.list(), Follow: d.list()}
	if d.bad || d.b != "" || version != wireVersion {
		return bad("version %d of the protocol is not known", version)
	}
	t, err := v.src.Tree(ctx, sel)
	if err != nil {
		return err
	}
	var ok bool
	if v.tree, ok = t.(*clientTree); !ok {
		return fmt.Errorf("serving a directory: %T is not one", v.src)
	}
	v.dirs, v.file = nil, nil
	b := append([]byte{msgRoot}, v.tree.root.sum[:]...)
	return v.s.Send(binary.AppendVarint(b, v.tree.top.MTime.UnixNano()))
}

// index makes the tables by digest, which an unchanged tree has no need of.
func (v *server) index(n *node) {
	v.dirs[n.sum] = n
	for i := range n.entries {
		switch {
		case n.sub[i] != nil && n.inView(i):
			v.index(n.sub[i])
		case n.entries[i].IsRegular():
			v.file[n.content[i]] = n.entries[i].Path
		}
	}
}

func (v *server) need() error {
	if v.tree == nil {
		return bad("a question before a selection")
	}
	if v.dirs == nil {
		v.dirs, v.file = map[solver.Digest]*node{}, map[solver.Digest]string{}
		v.index(v.tree.root)
	}
	return nil
}

// listings sends listings, in messages of chunk bytes or a little more.
func (v *server) listings(sums []solver.Digest, recursive bool) error {
	if err := v.need(); err != nil {
		return err
	}
	sent := map[solver.Digest]bool{}
	msg := []byte{msgListing, 1}
	var scratch []byte
	for len(sums) > 0 {
		sum := sums[0]
		sums = sums[1:]
		n := v.dirs[sum]
		if n == nil {
			return bad("there is no directory %s", sum)
		}
		if sent[sum] && recursive {
			continue
		}
		sent[sum] = true
		scratch = appendListing(scratch[:0], n)
		msg = appendStr(append(msg, sum[:]...), string(scratch))
		if len(msg) >= chunk {
			if err := v.s.Send(msg); err != nil {
				return err
			}
			msg = append(msg[:0:0], msgListing, 1)
		}
		for i := range n.entries {
			if recursive && n.sub[i] != nil && n.inView(i) {
				sums = append(sums, n.sub[i].sum)
			}
		}
	}
	msg[1] = 0
	return v.s.Send(msg)
}

// files sends the contents of files. A file that is not any more what its digest says is an error, before the daemon
// could take it.
func (v *server) files(ctx context.Context, sums []solver.Digest) error {
	if err := v.need(); err != nil {
		return err
	}
	msg := make([]byte, 1, chunk+1)
	msg[0] = msgData
	flush := func() error {
		if len(msg) == 1 {
			return nil
		}
		err := v.s.Send(msg)
		// The stream may still hold what it was given.
		msg = make([]byte, 1, chunk+1)
		msg[0] = msgData
		return err
	}
	for _, sum := range sums {
		p, ok := v.file[sum]
		if !ok {
			return bad("there is no file %s", sum)
		}
		fd, err := v.tree.open(p, sum)
		if err != nil {
			return err
		}
		err = func() error {
			defer dirfd.Close(fd)
			h := sha256.New()
			for {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				free := msg[len(msg):cap(msg)]
				n, err := dirfd.Read(fd, free)
				if err != nil {
					return fmt.Errorf("reading %q: %w", p, err)
				}
				h.Write(free[:n])
				msg = msg[:len(msg)+n]
				if len(msg) == cap(msg) {
					if err := flush(); err != nil {
						return err
					}
				}
				if n < len(free) {
					break
				}
			}
			if solver.Digest(h.Sum(nil)) != sum {
				return &treehash.ChangedError{Path: p}
			}
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return flush()
}
