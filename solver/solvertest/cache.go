package solvertest

import (
	"context"
	"slices"
	"sync"

	"github.com/boxbuild/boxbuild/solver"
)

// A Cache is a solver.Cache and solver.Describer in memory. The zero Cache is empty and ready for use.
type Cache struct {
	mu      sync.Mutex // guards what follows
	out     map[solver.Key][]solver.Result
	records map[solver.Key]solver.Record
	gets    map[solver.Key]int
}

// Get implements solver.Cache.
func (c *Cache) Get(_ context.Context, k solver.Key) ([]solver.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gets == nil {
		c.gets = make(map[solver.Key]int)
	}
	c.gets[k]++
	out, ok := c.out[k]
	if !ok {
		return nil, solver.ErrMiss
	}
	return append([]solver.Result{}, out...), nil
}

// Put implements solver.Cache.
func (c *Cache) Put(_ context.Context, k solver.Key, out []solver.Result) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out == nil {
		c.out = make(map[solver.Key][]solver.Result)
	}
	c.out[k] = slices.Clone(out)
	return nil
}

// Describe implements solver.Describer.
func (c *Cache) Describe(_ context.Context, k solver.Key, rec solver.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.records == nil {
		c.records = make(map[solver.Key]solver.Record)
	}
	c.records[k] = rec
}

// Record returns what k was last described as.
func (c *Cache) Record(k solver.Key) (solver.Record, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec, ok := c.records[k]
	return rec, ok
}

// Delete removes the record of k.
func (c *Cache) Delete(k solver.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.out, k)
}

// Gets returns how often k has been looked up.
func (c *Cache) Gets(k solver.Key) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gets[k]
}

// Len returns the number of records.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.out)
}
