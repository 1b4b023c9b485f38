package solver

import "sync"

// A mailbox carries events to the goroutine that owns a build. An event is a function for that goroutine to call. The
// box never blocks a sender; it stays small, as each job owes one event and each reader of a log has one in the box.
type mailbox struct {
	mu    sync.Mutex // guards queue; a leaf, taken under any other mutex
	queue []func()
	spare []func()      // the owner's, to be filled next
	ready chan struct{} // has a token when queue may not be empty
}

func newMailbox() *mailbox { return &mailbox{ready: make(chan struct{}, 1)} }

func (m *mailbox) post(event func()) {
	m.mu.Lock()
	m.queue = append(m.queue, event)
	first := len(m.queue) == 1
	m.mu.Unlock()
	if first {
		select {
		case m.ready <- struct{}{}:
		default:
		}
	}
}

// handle calls the events that have come, in order. Only the owner calls it.
func (m *mailbox) handle() {
	m.mu.Lock()
	batch := m.queue
	m.queue = m.spare[:0]
	m.mu.Unlock()
	for _, event := range batch {
		event()
	}
	clear(batch)
	m.spare = batch
}
