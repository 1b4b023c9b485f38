package bridge

import (
	"context"
	"errors"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
)

// remember keeps the user's file that a frontend has translated: steps fail later, when only their names for it are there.
func (c *conversation) remember(out *frontend.Output) {
	if out.File == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.texts == nil {
		c.texts = make(map[string][]byte)
	}
	c.texts[out.File] = out.Text
}

// onlyFile returns the file that the conversation is about, if it is about one only.
func (c *conversation) onlyFile() (string, []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.texts) == 1 {
		for name, text := range c.texts {
			return name, text
		}
	}
	return "", nil
}

// located says of a failed step where in the user's file it comes from.
func (c *conversation) located(err error) error {
	var v *solver.VertexError
	var src *frontend.SourceError
	if !errors.As(err, &v) || v.Vertex == nil || errors.As(err, &src) || errors.Is(err, context.Canceled) {
		return err
	}
	m := v.Vertex.Meta()
	text := m.Text
	if text == nil {
		c.mu.Lock()
		text = c.texts[m.File]
		c.mu.Unlock()
	}
	if text == nil || len(m.Source) == 0 {
		return err
	}
	return &frontend.SourceError{File: m.File, Text: text, Ranges: m.Source, Err: v}
}
