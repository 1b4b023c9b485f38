package run

import (
	"encoding/binary"
	"os"
	"path/filepath"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/solver"
)

// recent remembers, for each lineage of file operations, the last result and what was copied into it, so that the next
// one can link what has not changed. It is a hint on disk, a file each, written anew at each commit and never synced: one
// that is damaged is not found, or its manifest is refused by its own checksum, and one that names a snapshot which has
// gone is dropped.
type recent struct{ dir string }

const recentMagic = "boxbuild copies 1\n"

func (r *recent) path(lineage solver.Key) string { return filepath.Join(r.dir, lineage.String()) }

func (r *recent) get(lineage solver.Key) (id snapshot.ID, manifest []byte, ok bool) {
	if r.dir == "" {
		return "", nil, false
	}
	data, err := os.ReadFile(r.path(lineage))
	if err != nil {
		return "", nil, false
	}
	rest := data[min(len(recentMagic), len(data)):]
	if string(data[:len(data)-len(rest)]) != recentMagic || len(rest) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(rest))
	if len(rest) < 2+n {
		return "", nil, false
	}
	return snapshot.ID(rest[2 : 2+n]), rest[2+n:], true
}

// drop forgets a lineage, whose snapshot has gone.
func (r *recent) drop(lineage solver.Key) { _ = os.Remove(r.path(lineage)) }

func (r *recent) put(lineage solver.Key, id snapshot.ID, manifest []byte) {
	if r.dir == "" || lineage == (solver.Key{}) || os.MkdirAll(r.dir, 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(r.dir, ".new-")
	if err != nil {
		return
	}
	defer func() { _ = os.Remove(f.Name()) }() // fails after the rename
	head := binary.BigEndian.AppendUint16([]byte(recentMagic), uint16(len(id)))
	_, err1 := f.Write(append(head, id...))
	_, err2 := f.Write(manifest)
	if err := f.Close(); err1 != nil || err2 != nil || err != nil {
		return
	}
	_ = os.Rename(f.Name(), r.path(lineage)) // without it the next copy links nothing
}
