package fileop

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/boxbuild/boxbuild/solver"
)

// A manifest says what files a draft got by copying, so that a later draft can share those that it would have again. It
// is part of no result: without one, everything is copied.
//
// Encoded it is the magic, the CRC-32C of what follows, and the records sorted by path: path, mode, owner, time, size
// and digest.
type manifest struct{ records []record }

// A record is one regular file without extended attributes and other names.
type record struct {
	path string // absolute in the tree
	meta meta
	size int64
	sum  solver.Digest
	// replaced says that what an earlier record describes is not there any more. Such a record is never encoded.
	replaced bool
}

// maxRecords is how many files a manifest describes. One with more is not made: a million records take 700 MB while they
// are collected and encoded, and then a copy is what it was without them.
const maxRecords = 200_000

// A recorder collects the records of a draft. It is safe for concurrent use.
type recorder struct {
	max int64
	n   atomic.Int64

	mu      sync.Mutex
	records []record
}

// room says whether one more file is to be described, and counts it.
func (r *recorder) room() bool { return r != nil && r.n.Add(1) <= r.max }

func (r *recorder) add(recs []record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, recs...)
}

// Those of version 1 may describe files that were replaced.
const manifestMagic = "boxbuild copy 2\n"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recordSize is that of a record but for its path and the length of it.
const recordSize = 4 + 4 + 4 + 8 + 8 + 32

// encode returns the manifest of what was added, nil if there was no room for all of it. Of two records of a path the
// later one counts.
func (r *recorder) encode() []byte {
	if r.n.Load() > r.max {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortStableFunc(r.records, func(a, b record) int { return cmp.Compare(a.path, b.path) })
	b := make([]byte, 0, len(manifestMagic)+4+len(r.records)*(recordSize+48))
	b = append(b, manifestMagic...)
	b = append(b, 0, 0, 0, 0)
	for i := range r.records {
		if i+1 < len(r.records) && r.records[i+1].path == r.records[i].path {
			continue
		}
		rec := &r.records[i]
		if rec.replaced {
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(rec.path)))
		b = append(b, rec.path...)
		b = binary.LittleEndian.AppendUint32(b, rec.meta.mode)
		b = binary.LittleEndian.AppendUint32(b, rec.meta.uid)
		b = binary.LittleEndian.AppendUint32(b, rec.meta.gid)
		b = binary.LittleEndian.AppendUint64(b, uint64(rec.meta.mtime))
		b = binary.LittleEndian.AppendUint64(b, uint64(rec.size))
		b = append(b, rec.sum[:]...)
	}
	binary.LittleEndian.PutUint32(b[len(manifestMagic):], crc32.Checksum(b[len(manifestMagic)+4:], castagnoli))
	return b
}

// parseManifest reads what encode wrote, and returns nil for anything else.
func parseManifest(b []byte) *manifest {
	head := len(manifestMagic) + 4
	if len(b) < head || string(b[:len(manifestMagic)]) != manifestMagic ||
		crc32.Checksum(b[head:], castagnoli) != binary.LittleEndian.Uint32(b[len(manifestMagic):]) {
		return nil
	}
	body := b[head:]
	all := string(body) // paths are parts of it
	m := &manifest{records: make([]record, 0, len(body)/(recordSize+32))}
	for at := 0; at < len(body); {
		n, w := binary.Uvarint(body[at:])
		if w <= 0 || n > uint64(len(body)) || at+w+int(n)+recordSize > len(body) {
			return nil
		}
		at += w
		rec := record{path: all[at : at+int(n)]}
		at += int(n)
		f := body[at : at+recordSize]
		at += recordSize
		rec.meta = meta{
			mode: binary.LittleEndian.Uint32(f), uid: binary.LittleEndian.Uint32(f[4:]), gid: binary.LittleEndian.Uint32(f[8:]),
			mtime: int64(binary.LittleEndian.Uint64(f[12:])),
		}
		rec.size = int64(binary.LittleEndian.Uint64(f[20:]))
		copy(rec.sum[:], f[28:])
		if k := len(m.records); k > 0 && m.records[k-1].path >= rec.path {
			return nil
		}
		m.records = append(m.records, rec)
	}
	return m
}

func (m *manifest) find(path string) *record {
	if m == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(m.records, path, func(r record, p string) int { return cmp.Compare(r.path, p) })
	if !ok {
		return nil
	}
	return &m.records[i]
}
