package treehash

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
)

// A Merkle is a Tree that keeps a digest for each directory.
type Merkle interface {
	Tree
	// DirDigest returns what HashDir returns for the directory: the digest of everything in it, not of its own
	// metadata.
	DirDigest(ctx context.Context, dir string) (solver.Digest, error)
}

// Versions of the encodings. A change to either makes every digest another one.
const (
	dirVersion    = "boxbuild dir v1\n"
	selectVersion = "boxbuild select v1\n"
)

// AppendEntry appends the encoding of e under the given name to b: everything that a digest covers. sum is the digest
// of a regular file's content, or what HashDir says of a directory; it is not looked at otherwise. No two different
// entries have the same encoding, and none is the beginning of another.
func AppendEntry(b []byte, name string, e *Entry, sum *solver.Digest) []byte {
	b = appendStr(b, name)
	b = binary.LittleEndian.AppendUint32(b, e.Mode)
	b = binary.LittleEndian.AppendUint32(b, e.UID)
	b = binary.LittleEndian.AppendUint32(b, e.GID)
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		b = append(b, sum[:]...)
	case unix.S_IFLNK:
		b = appendStr(b, e.Link)
	case unix.S_IFCHR, unix.S_IFBLK:
		b = binary.LittleEndian.AppendUint64(b, e.Rdev)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Xattr)))
	if len(e.Xattr) > 0 {
		for _, k := range slices.Sorted(maps.Keys(e.Xattr)) {
			b = appendStr(b, k)
			b = appendStr(b, string(e.Xattr[k]))
		}
	}
	return b
}

func appendStr(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// HashDir returns the digest of a directory, given the encodings of its entries, sorted by name, one after the other.
// scratch is used to build the message in and returned for the next call.
func HashDir(n int, entry func(b []byte, i int) []byte, scratch []byte) (solver.Digest, []byte) {
	b := append(scratch[:0], dirVersion...)
	for i := range n {
		b = entry(b, i)
	}
	return sha256.Sum256(b), b
}

// Digest returns the digest of what sel picks from t, of everything if sel is nil. The entries are those that Match
// returns. The names of the selected paths themselves enter only where a wildcard found them, or where
// the selector has them named. A path that is not there
// is an error as in Match.
//
// On a Merkle tree the digest of a directory without patterns costs no more than looking it up.
func Digest(ctx context.Context, t Tree, sel *solver.Selector) (solver.Digest, error) {
	f, err := newFilter(sel)
	if err != nil {
		return solver.Digest{}, err
	}
	srcs, err := sources(ctx, t, sel)
	if err != nil {
		return solver.Digest{}, err
	}
	d := &digester{t: t, f: f}
	msg := []byte(selectVersion)
	for _, s := range srcs {
		sum, err := d.sum(ctx, s.entry, "", State{})
		if err != nil {
			return solver.Digest{}, err
		}
		name := ""
		switch {
		case s.wild:
			name = s.path
		case sel != nil && sel.Named && !s.entry.IsDir():
			name = path.Base(s.path)
		}
		msg = AppendEntry(msg, name, s.entry, &sum)
	}
	return sha256.Sum256(msg), nil
}

type digester struct {
	t Tree
	f *Filter
}

// sum returns what stands for the content of an entry.
func (d *digester) sum(ctx context.Context, e *Entry, rel string, st State) (solver.Digest, error) {
	switch {
	case e.IsRegular():
		return d.t.Content(ctx, e.Path)
	case e.IsDir():
		sum, _, err := d.dir(ctx, e.Path, rel, st)
		return sum, err
	}
	return solver.Digest{}, nil
}

// dir returns the digest of what is picked in a directory, and whether that is anything.
func (d *digester) dir(ctx context.Context, dir, rel string, st State) (sum solver.Digest, any bool, err error) {
	if m, ok := d.t.(Merkle); ok && d.f == nil {
		sum, err := m.DirDigest(ctx, dir)
		return sum, true, err
	}
	if err := ctx.Err(); err != nil {
		return sum, false, err
	}
	list, err := d.t.List(ctx, dir)
	if err != nil {
		return sum, false, err
	}
	msg := []byte(dirVersion)
	for _, e := range list {
		name := path.Base(e.Path)
		r := join(rel, name)
		v, sub, err := d.f.Check(r, st)
		if err != nil {
			return sum, false, err
		}
		if v == Skip || v == Walk && !e.IsDir() {
			continue
		}
		var s solver.Digest
		found := v == Pick
		if e.IsDir() {
			var below bool
			if s, below, err = d.dir(ctx, e.Path, r, sub); err != nil {
				return sum, false, err
			}
			found = found || below
		} else if s, err = d.sum(ctx, e, r, sub); err != nil {
			return sum, false, err
		}
		if found {
			msg = AppendEntry(msg, name, e, &s)
			any = true
		}
	}
	return sha256.Sum256(msg), any, nil
}

func isNotExist(err error) bool {
	return err != nil && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR))
}
