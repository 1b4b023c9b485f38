package filesync

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// A Stream carries messages between a daemon and a client, in order. Send and Recv may be called at the same time, but
// neither concurrently with itself. When the stream is closed or its context ends both return an error.
type Stream interface {
	Send(msg []byte) error
	Recv() ([]byte, error)
}

// The messages: a byte that says which, and what follows. The daemon asks, the client answers; an error ends it all.
//
//	select    version, include, exclude, follow: lists of strings        → root
//	root      digest of the tree that is selected, time of the directory
//	dirs      recursive, digests of directories                          → listing…
//	listing   more, listings of directories, in the order asked
//	files     digests of files                                           → data…
//	data      bytes of the files, one after the other, in the order asked
//	fail      text
//
// A recursive request is answered by the listings of everything below as well, breadth first, each once.
const (
	msgSelect byte = iota + 1
	msgRoot
	msgDirs
	msgListing
	msgFiles
	msgData
	msgFail
)

const (
	wireVersion = 1
	// maxMessage bounds what is received at once. A listing is one message, so it also bounds a directory.
	maxMessage = 64 << 20
	chunk      = 1 << 20 // how much is sent at once, if one listing is not more
	askDirs    = 10_000  // directories in a request
	askFiles   = 2_000   // files in a request
)

// A ProtocolError says that the other side does not keep to the protocol, or sends what no directory can contain.
type ProtocolError struct{ Reason string }

func (e *ProtocolError) Error() string { return "the client's files cannot be taken: " + e.Reason }

func bad(format string, args ...any) error { return &ProtocolError{fmt.Sprintf(format, args...)} }

func recv(s Stream) (kind byte, d *decoder, err error) {
	b, err := s.Recv()
	if err != nil {
		return 0, nil, err
	}
	if len(b) == 0 || len(b) > maxMessage {
		return 0, nil, bad("a message of %d bytes", len(b))
	}
	d = &decoder{b: string(b[1:])}
	if b[0] == msgFail {
		text := d.b
		if len(text) > 4096 {
			text = text[:4096]
		}
		return 0, nil, &remoteError{strings.ToValidUTF8(text, "?")}
	}
	return b[0], d, nil
}

// A remoteError is what the other side has failed with.
type remoteError struct{ text string }

func (e *remoteError) Error() string { return e.text }

func appendList(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendStr(b, s)
	}
	return b
}

// maxPatterns bounds the patterns of a selection.
const maxPatterns = 100_000

func (d *decoder) list() []string {
	n := d.uvarint()
	if n > maxPatterns || n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	var out []string
	for range n {
		out = append(out, strings.Clone(d.str()))
	}
	return out
}

// digests reads digests to the end of the message.
func (d *decoder) digests() []solver.Digest {
	out := make([]solver.Digest, 0, len(d.b)/len(solver.Digest{}))
	for d.b != "" && !d.bad {
		out = append(out, d.digest())
	}
	return out
}

// appendListing appends what a directory contains: for each entry its encoding in the Merkle tree, and what that does
// not cover: size, time, and which names are one file's.
func appendListing(b []byte, n *node) []byte {
	b = binary.AppendUvarint(b, uint64(len(n.view)))
	k := 0
	for i := range n.entries {
		if k == len(n.view) || n.view[k] != &n.entries[i] {
			continue
		}
		k++
		e, sum := &n.entries[i], &n.content[i]
		if n.sub[i] != nil {
			sum = &n.sub[i].sum
		}
		b = treehash.AppendEntry(b, base(e.Path), e, sum)
		b = binary.AppendUvarint(b, uint64(e.Size))
		b = binary.AppendVarint(b, e.MTime.UnixNano())
		b = binary.AppendUvarint(b, e.Hard)
	}
	return b
}

var errListing = errors.New("a malformed listing")

// A listing is a directory as it was received: the names of its entries in Path, and digests for the directories too.
type listing struct {
	entries []treehash.Entry
	sums    []solver.Digest
}

// parseListing reads a listing and checks it: that it is the one that the digest names, and that every entry is one
// that a directory can have. Names are single and in order, so two are never the same and none leads anywhere.
func parseListing(s string, want solver.Digest) (*listing, error) {
	d := &decoder{b: s}
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		return nil, errListing
	}
	l := &listing{entries: make([]treehash.Entry, 0, n), sums: make([]solver.Digest, 0, n)}
	last := ""
	for range n {
		var e treehash.Entry
		sum := d.dirEntry(&e)
		if d.bad {
			return nil, errListing
		}
		if err := checkEntry(&e); err != nil {
			return nil, err
		}
		if e.Path <= last {
			return nil, bad("names %.300q and %.300q are out of order", last, e.Path)
		}
		last = e.Path
		l.entries = append(l.entries, e)
		l.sums = append(l.sums, sum)
	}
	if d.b != "" {
		return nil, errListing
	}
	sum, _ := treehash.HashDir(len(l.entries), func(b []byte, i int) []byte {
		return treehash.AppendEntry(b, l.entries[i].Path, &l.entries[i], &l.sums[i])
	}, nil)
	if sum != want {
		return nil, bad("a listing is not the one that was asked for")
	}
	return l, nil
}

// dirEntry reads an entry as appendListing writes it. Its Path is the name alone.
func (d *decoder) dirEntry(e *treehash.Entry) (sum solver.Digest) {
	e.Path = strings.Clone(d.str())
	e.Mode, e.UID, e.GID = d.uint32(), d.uint32(), d.uint32()
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		sum = d.digest()
	case unix.S_IFLNK:
		e.Link = strings.Clone(d.str())
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Rdev = d.uint64()
	}
	attrs := d.uvarint()
	if attrs > uint64(len(d.b)) {
		d.bad = true
		return sum
	}
	for range attrs {
		if e.Xattr == nil {
			e.Xattr = map[string][]byte{}
		}
		k := strings.Clone(d.str())
		e.Xattr[k] = []byte(d.str())
	}
	e.Size = int64(d.uvarint())
	e.MTime = time.Unix(0, d.varint())
	e.Hard = d.uvarint()
	return sum
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

// Limits of file systems on Linux.
const (
	maxName  = 255
	maxLink  = 4095
	maxXattr = 64 << 10
)

func checkEntry(e *treehash.Entry) error {
	name := e.Path
	switch {
	case name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00"):
		return bad("%.300q is no file name", name)
	case e.UID != 0 || e.GID != 0:
		return bad("%q belongs to somebody", name)
	case e.Mode&^(unix.S_IFMT|0o7777) != 0:
		return bad("%q has mode %o", name, e.Mode)
	case e.Size < 0 || e.Size != 0 && !e.IsRegular():
		return bad("%q has size %d", name, e.Size)
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
	case unix.S_IFLNK:
		if e.Link == "" || len(e.Link) > maxLink || strings.Contains(e.Link, "\x00") {
			return bad("%q is a symlink to %.300q", name, e.Link)
		}
	default:
		return bad("%q has mode %o", name, e.Mode)
	}
	for k, v := range e.Xattr {
		if k == "" || len(k) > maxName || len(v) > maxXattr || strings.Contains(k, "\x00") || !dirfd.Carried(k) {
			return bad("%q has the attribute %.300q", name, k)
		}
	}
	return nil
}
