package solver

import "sync"

// A pool runs jobs of many builds on a bounded number of goroutines. Builds take turns; within a build the job with the
// lowest order goes first. A goroutine exists only while there is work for it, and each job is waited for by the build
// that submitted it.
type pool struct {
	limit int

	mu   sync.Mutex // guards what follows
	busy int
	turn []*lane // the lanes with waiting jobs; the next to be served is first
}

// A lane is the jobs of one build that wait in a pool. Its pool's mutex guards it.
type lane struct{ jobs ordered[func()] }

// submit has run called soon, on another goroutine.
func (p *pool) submit(l *lane, order int, run func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.jobs.len() == 0 {
		p.turn = append(p.turn, l)
	}
	l.jobs.push(order, run)
	if p.busy < p.limit {
		p.busy++
		go p.work()
	}
}

func (p *pool) work() {
	for {
		run := p.next()
		if run == nil {
			return
		}
		run()
	}
}

// next returns the job to run now, or nil if the goroutine is no longer needed.
func (p *pool) next() func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.turn) == 0 {
		p.busy--
		return nil
	}
	l := p.turn[0]
	p.turn = p.turn[1:]
	_, run := l.jobs.pop()
	if l.jobs.len() > 0 {
		p.turn = append(p.turn, l)
	}
	return run
}
