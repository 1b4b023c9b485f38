package filesync

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// State files are named by the hash of the directory's path and that of the selection. They are a cache: one that
// cannot be read or written is as good as none, so no error leaves this file.

// maxStates is how many state files are kept; the oldest go first.
const maxStates = 128

// A stateFile is one that has been read.
type stateFile struct {
	root  *node
	exact bool // of the very selection that was asked for
}

func (k cacheKey) prefix() string {
	sum := sha256.Sum256([]byte(k.path))
	return hex.EncodeToString(sum[:16]) + "-"
}

func (k cacheKey) file() string { return k.prefix() + hex.EncodeToString(k.selection[:16]) }

// load reads the state file of a key; nil if there is none that can be used.
func (c *Cache) load(k cacheKey) *node {
	b, err := os.ReadFile(filepath.Join(c.dir, k.file()))
	if err != nil {
		return nil
	}
	root, err := decode(b, k.path)
	if err != nil {
		return nil
	}
	return root
}

// states reads the state files of the directory that k names: that of the selection alone if there is one, else the
// newest one of another selection.
func (c *Cache) states(k cacheKey) []stateFile {
	if root := c.load(k); root != nil {
		return []stateFile{{root, true}}
	}
	newest, when := "", time.Time{}
	list, _ := os.ReadDir(c.dir)
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), k.prefix()) {
			continue
		}
		if fi, err := e.Info(); err == nil && fi.ModTime().After(when) {
			newest, when = e.Name(), fi.ModTime()
		}
	}
	if newest == "" {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(c.dir, newest))
	if err != nil {
		return nil
	}
	root, err := decode(b, k.path)
	if err != nil {
		return nil
	}
	return []stateFile{{root, false}}
}

// save writes the state file of a key, and again if there has been something newer meanwhile.
func (c *Cache) save(k cacheKey, root *node) {
	for root != nil {
		c.write(k, root)
		c.mu.Lock()
		root = c.saving[k]
		c.saving[k] = nil
		if root == nil {
			delete(c.saving, k)
		}
		c.mu.Unlock()
	}
}

func (c *Cache) write(k cacheKey, root *node) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return
	}
	f, err := os.CreateTemp(c.dir, ".new-*")
	if err != nil {
		return
	}
	err = encode(f, root, k.path)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(c.dir, k.file()))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return
	}
	c.tidy()
}

// tidy removes the oldest state files if there are too many, and what an interrupted write has left.
func (c *Cache) tidy() {
	list, err := os.ReadDir(c.dir)
	if err != nil || len(list) <= maxStates {
		return
	}
	type file struct {
		name string
		when time.Time
	}
	var files []file
	for _, e := range list {
		fi, err := e.Info()
		if err != nil {
			continue
		}
		if strings.HasPrefix(e.Name(), ".new-") && time.Since(fi.ModTime()) < time.Hour {
			continue // somebody is writing it
		}
		files = append(files, file{e.Name(), fi.ModTime()})
	}
	slices.SortFunc(files, func(a, b file) int { return a.when.Compare(b.when) })
	for i := 0; i < len(files)-maxStates*3/4; i++ {
		_ = os.Remove(filepath.Join(c.dir, files[i].name))
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
