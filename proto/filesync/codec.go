package filesync

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A state file is: the magic, which is also the version; the CRC-32C of the rest; the directory's path; the root node.
// A node is its names in the order of listing, its entries in the order of name, its Merkle digest, and the nodes of
// the directories in it, in order. Lengths and counts are varints, numbers little-endian.

const stateMagic = "boxbuild stat 2\n"

var errDamaged = errors.New("damaged state file")

// encode writes a state file. It is not put together in memory: that of a million files has 100 MB.
func encode(f io.WriteSeeker, root *node, path string) error {
	head := append([]byte(stateMagic), 0, 0, 0, 0)
	if _, err := f.Write(head); err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	w := &encoder{w: bufio.NewWriterSize(io.MultiWriter(f, sum), 256<<10)}
	w.write(appendStr(nil, path))
	w.node(root)
	if w.err == nil {
		w.err = w.w.Flush()
	}
	if w.err != nil {
		return w.err
	}
	if _, err := f.Seek(int64(len(stateMagic)), io.SeekStart); err != nil {
		return err
	}
	_, err := f.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	return err
}

// An encoder writes nodes. After the first error nothing is written.
type encoder struct {
	w   *bufio.Writer
	b   []byte // of one directory
	err error
}

func (w *encoder) write(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

func (w *encoder) node(n *node) {
	w.b = n.encode(w.b[:0])
	w.write(w.b)
	for _, s := range n.sub {
		if s != nil && w.err == nil {
			w.node(s)
		}
	}
}

func appendStr(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// encode appends the node without those below it.
func (n *node) encode(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(n.names)))
	b = binary.AppendUvarint(b, uint64(len(n.entries)))
	for i := range n.names {
		l := &n.names[i]
		b = appendStr(b, l.name)
		b = append(b, l.kind, byte(l.verdict))
		b = binary.AppendUvarint(b, uint64(l.at+1))
	}
	for i := range n.entries {
		e, s := &n.entries[i], &n.stamps[i]
		flags := byte(0)
		if s.known {
			flags |= 1
		}
		if e.Xattr != nil {
			flags |= 2
		}
		b = append(b, flags)
		b = binary.LittleEndian.AppendUint32(b, e.Mode)
		b = binary.LittleEndian.AppendUint32(b, s.nlink)
		b = binary.LittleEndian.AppendUint64(b, s.ino)
		b = binary.LittleEndian.AppendUint64(b, uint64(s.ctime))
		b = binary.LittleEndian.AppendUint64(b, uint64(s.mtime))
		switch {
		case e.IsRegular():
			b = binary.AppendUvarint(b, uint64(e.Size))
			b = binary.LittleEndian.AppendUint64(b, e.Hard)
			if s.known {
				b = append(b, n.content[i][:]...)
			}
		case e.IsSymlink():
			b = appendStr(b, e.Link)
		case !e.IsDir():
			b = binary.AppendUvarint(b, e.Rdev)
		}
		if e.Xattr != nil {
			b = binary.AppendUvarint(b, uint64(len(e.Xattr)))
			for _, k := range slices.Sorted(maps.Keys(e.Xattr)) {
				b = appendStr(b, k)
				b = appendStr(b, string(e.Xattr[k]))
			}
		}
	}
	return append(b, n.sum[:]...)
}

// decode reads a state file of the directory at path. What it returns is as a walk left it, or an error.
func decode(b []byte, path string) (*node, error) {
	if len(b) < len(stateMagic)+4 || string(b[:len(stateMagic)]) != stateMagic {
		return nil, errDamaged
	}
	body := b[len(stateMagic)+4:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[len(stateMagic):]) {
		return nil, errDamaged
	}
	d := &decoder{b: string(body)}
	if d.str() != path {
		return nil, errDamaged
	}
	root := d.node("/", 0)
	if d.bad || d.b != "" {
		return nil, errDamaged
	}
	return root, nil
}

// A decoder takes values off the front of b. After the first bad one everything is zero.
type decoder struct {
	b     string
	bad   bool
	paths []byte
}

func (d *decoder) take(n uint64) string {
	if d.bad || n > uint64(len(d.b)) {
		d.bad = true
		return ""
	}
	s := d.b[:n]
	d.b = d.b[n:]
	return s
}

func (d *decoder) uvarint() uint64 {
	var v uint64
	for i := 0; i < len(d.b) && i < binary.MaxVarintLen64; i++ {
		c := d.b[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.b = d.b[i+1:]
			return v
		}
	}
	d.bad = true
	return 0
}

func (d *decoder) byte() byte {
	s := d.take(1)
	if s == "" {
		return 0
	}
	return s[0]
}

func (d *decoder) uint64() (v uint64) {
	s := d.take(8)
	for i := range len(s) {
		v |= uint64(s[i]) << (8 * i)
	}
	return v
}

func (d *decoder) uint32() (v uint32) {
	s := d.take(4)
	for i := range len(s) {
		v |= uint32(s[i]) << (8 * i)
	}
	return v
}

func (d *decoder) str() string { return d.take(d.uvarint()) }

func (d *decoder) digest() (sum solver.Digest) {
	copy(sum[:], d.take(uint64(len(sum))))
	return sum
}

// maxDepth is how deep directories may lie: deeper ones have paths that the kernel does not take.
const maxDepth = 2048

func (d *decoder) node(dir string, depth int) *node {
	names, entries := d.uvarint(), d.uvarint()
	// A name takes four bytes at least, an entry more: what says it has more than fits is not believed.
	if d.bad || depth > maxDepth || names > uint64(len(d.b)) || entries > names {
		d.bad = true
		return nil
	}
	n := &node{
		names: make([]listed, names), entries: make([]treehash.Entry, entries), stamps: make([]stamp, entries),
		content: make([]solver.Digest, entries), sub: make([]*node, entries),
	}
	d.names(n, dir)
	for i := range n.entries {
		if d.bad || n.entries[i].Path == "" || i > 0 && n.entries[i].Path <= n.entries[i-1].Path {
			d.bad = true
			return nil
		}
		d.entry(n, i)
	}
	n.sum = d.digest()
	n.size = len(n.entries) + 1
	for i := range n.entries {
		if d.bad {
			return nil
		}
		if n.entries[i].IsDir() {
			if n.sub[i] = d.node(n.entries[i].Path+"/", depth+1); n.sub[i] == nil {
				return nil
			}
			n.size += n.sub[i].size
		}
		if n.inView(i) {
			n.view = append(n.view, &n.entries[i])
		}
	}
	n.done = true
	return n
}

// names reads the names of a directory, whose path with a slash at its end is dir, and gives the entries their paths.
func (d *decoder) names(n *node, dir string) {
	d.paths = d.paths[:0]
	for i := range n.names {
		l := &n.names[i]
		l.name = d.str()
		l.kind = d.byte()
		l.verdict = treehash.Verdict(d.byte())
		at := d.uvarint()
		if d.bad || l.name == "" || strings.ContainsAny(l.name, "/\x00") || at > uint64(len(n.entries)) {
			d.bad = true
			return
		}
		l.at = int32(at) - 1
		d.paths = append(d.paths, dir...)
		d.paths = append(d.paths, l.name...)
	}
	all := string(d.paths)
	for i := range n.names {
		l := &n.names[i]
		end := len(dir) + len(l.name)
		if l.name = all[len(dir):end]; l.at >= 0 {
			n.entries[l.at].Path = all[:end]
		}
		all = all[end:]
	}
}

func (d *decoder) entry(n *node, i int) {
	e, s := &n.entries[i], &n.stamps[i]
	flags := d.byte()
	s.known = flags&1 != 0
	e.Mode, s.nlink = d.uint32(), d.uint32()
	s.ino, s.ctime, s.mtime = d.uint64(), int64(d.uint64()), int64(d.uint64())
	e.MTime = time.Unix(0, s.mtime)
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Size, e.Hard = int64(d.uvarint()), d.uint64()
		if s.known {
			n.content[i] = d.digest()
		}
	case unix.S_IFLNK:
		e.Link = strings.Clone(d.str())
	case unix.S_IFDIR:
	default:
		e.Rdev = d.uvarint()
	}
	if flags&2 == 0 {
		return
	}
	count := d.uvarint()
	if count > uint64(len(d.b)) {
		d.bad = true
		return
	}
	e.Xattr = map[string][]byte{}
	for range count {
		k := strings.Clone(d.str())
		e.Xattr[k] = []byte(d.str())
	}
}
