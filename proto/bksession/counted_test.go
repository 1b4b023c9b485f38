package bksession

import (
	"io"
	"sync"

	"github.com/tonistiigi/fsutil"
)

// counted counts the files that are opened, which are those that are sent.
type counted struct {
	fsutil.FS
	mu    sync.Mutex
	files []string
}

func (c *counted) Open(p string) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files = append(c.files, p)
	return c.FS.Open(p)
}

// sent returns what has been sent since it was last asked.
func (c *counted) sent() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.files
	c.files = nil
	return out
}
