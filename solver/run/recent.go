package run

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/solver"
)

// recent remembers, for each lineage of file operations, the last result and what was copied into it, so that the next
// one can link what has not changed. It is a hint on disk, a file each, written anew at each commit and never synced: one
// that is damaged is not found, or its manifest is refused by its own checksum. One that names a snapshot which has gone
// is of no use, and removed when the daemon starts the next time.
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
	return parseHint(data)
}

// parseHint reads a hint, or the beginning of one. ok is false if it does not say which snapshot it is about.
func parseHint(data []byte) (id snapshot.ID, manifest []byte, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(recentMagic))
	if !ok || len(rest) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(rest))
	if len(rest) < 2+n {
		return "", nil, false
	}
	return snapshot.ID(rest[2 : 2+n]), rest[2+n:], true
}

// sweep removes every file but the hints about snapshots that there are.
func (r *recent) sweep(exists func(snapshot.ID) bool) {
	files, err := os.ReadDir(r.dir)
	if err != nil || r.dir == "" {
		return
	}
	head := make([]byte, 128)
	for _, f := range files {
		name := filepath.Join(r.dir, f.Name())
		if id, ok := readHint(name, head); !ok || !exists(id) || f.Name()[0] == '.' {
			_ = os.Remove(name) // what stays takes space, and nothing else
		}
	}
}

// readHint says which snapshot the hint in a file is about.
func readHint(name string, buf []byte) (snapshot.ID, bool) {
	f, err := os.Open(name)
	if err != nil {
		return "", false
	}
	defer f.Close()
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", false
	}
	id, _, ok := parseHint(buf[:n])
	return id, ok
}

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
