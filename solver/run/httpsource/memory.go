package httpsource

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver/op"
)

// A Memory remembers what URLs have had. It is a hint on disk, a file for each URL, written anew each time and never
// synced: one that is damaged or gone costs a download. A file is named by the hash of the URL, and does not hold it, since
// URLs may hold secrets.
type Memory struct{ dir string }

const (
	maxKnown  = 8    // contents that are remembered of one URL
	maxURLs   = 4096 // that are remembered when a Memory is opened
	maxMemory = 64 << 10
)

// OpenMemory returns the memory in dir, which is made when there is something to remember; "" remembers nothing. Of very
// many URLs those that nobody asked for in the longest time are forgotten.
func OpenMemory(dir string) *Memory {
	m := &Memory{dir: dir}
	m.sweep()
	return m
}

func (m *Memory) path(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(m.dir, hex.EncodeToString(sum[:]))
}

// Get returns what is known under id, which says what was asked for: the last first.
func (m *Memory) Get(id string) []Known {
	if m.dir == "" {
		return nil
	}
	data, err := os.ReadFile(m.path(id))
	if err != nil || len(data) > maxMemory {
		return nil
	}
	var all []Known
	if json.Unmarshal(data, &all) != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(k Known) bool {
		return k.Digest.Validate() != nil || k.Digest.Algorithm() != digest.SHA256 || k.Name != op.SafeName(k.Name) || (k.ETag == "" && k.LastModified == "")
	})
}

// Put remembers k under id. What it makes obsolete, and the oldest of too many, are forgotten.
func (m *Memory) Put(id string, k Known) {
	if m.dir == "" || os.MkdirAll(m.dir, 0o700) != nil {
		return
	}
	all := slices.DeleteFunc(m.Get(id), func(old Known) bool {
		// Without a tag there is no telling which of several contents is current.
		return old.ETag == k.ETag || old.ETag == "" || k.ETag == ""
	})
	all = append([]Known{k}, all...)
	data, err := json.Marshal(all[:min(len(all), maxKnown)])
	if err != nil || len(data) > maxMemory {
		return
	}
	f, err := os.CreateTemp(m.dir, ".new-")
	if err != nil {
		return
	}
	defer func() { _ = os.Remove(f.Name()) }() // fails after the rename
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return
	}
	_ = os.Rename(f.Name(), m.path(id)) // without it the next build downloads again
}

// sweep removes what was left unfinished, and the files of all but the URLs that were asked for last.
func (m *Memory) sweep() {
	if m.dir == "" {
		return
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return
	}
	var files []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		if e.Name()[0] == '.' {
			_ = os.Remove(filepath.Join(m.dir, e.Name())) // what stays takes space, and nothing else
			continue
		}
		files = append(files, info)
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, f := range files[min(len(files), maxURLs):] {
		_ = os.Remove(filepath.Join(m.dir, f.Name()))
	}
}
