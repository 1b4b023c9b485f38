package history

// A counter counts what a log says of steps. It is not safe for concurrent use.
type counter struct {
	steps Steps
	ended map[uint32]bool
}

// entry counts an entry.
func (c *counter) entry(h head) {
	switch h.kind {
	case kindDeclared:
		c.steps.Total++
	case kindWarned:
		c.steps.Warnings++
	case kindCached, kindDone, kindFailed:
		if c.ended[h.vertex] {
			return
		}
		if c.ended == nil {
			c.ended = map[uint32]bool{}
		}
		c.ended[h.vertex] = true
		c.steps.Completed++
		if h.kind == kindCached {
			c.steps.Cached++
		}
	case kindStarted, kindCanceled, kindLogged, kindProgress, kindRecord, kindFooter:
	}
}
