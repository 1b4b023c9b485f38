package bksession

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// A Manager has the sessions that clients have opened. It is safe for concurrent use.
type Manager struct {
	opt Options

	mu       sync.Mutex // guards the fields below
	sessions map[string]*Session
	changed  chan struct{} // closed and made anew when a session comes
	lost     []*LostError  // the last ones, so that a late Get can say what became of its session
}

// rememberedLosses is how many ended sessions a Manager can tell the end of.
const rememberedLosses = 64

// New returns a Manager without sessions.
func New(opt Options) *Manager {
	if opt.Wait <= 0 {
		opt.Wait = DefaultWait
	}
	opt.Health = opt.Health.withDefaults()
	return &Manager{opt: opt, sessions: map[string]*Session{}, changed: make(chan struct{})}
}

// Serve makes conn, on which the client serves gRPC, the session that md describes (the x-docker-expose-session-*
// headers, in any case). It returns when the session has ended, having closed conn: nil when the client has closed
// it, else the reason. The error is ErrExists, and conn closed, if the client's ID is in use.
func (m *Manager) Serve(ctx context.Context, conn net.Conn, md map[string][]string) error {
	s, err := m.open(ctx, conn, md)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer s.follow(ctx)()
	err = s.run()
	m.remove(s)
	var lost *LostError
	if errors.As(err, &lost) && lost.Why == nil {
		return nil
	}
	return err
}

func (m *Manager) open(ctx context.Context, conn net.Conn, md map[string][]string) (*Session, error) {
	h, err := parseHeaders(md)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions[h.id] != nil {
		return nil, fmt.Errorf("opening session %s: %w", h.id, ErrExists)
	}
	s, err := newSession(ctx, conn, h, m.opt)
	if err != nil {
		return nil, fmt.Errorf("opening session %s: %w", h.id, err)
	}
	m.sessions[h.id] = s
	close(m.changed)
	m.changed = make(chan struct{})
	return s, nil
}

func (m *Manager) remove(s *Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sessions, s.id)
	var lost *LostError
	if errors.As(context.Cause(s.ctx), &lost) {
		if len(m.lost) == rememberedLosses {
			m.lost = m.lost[1:]
		}
		m.lost = append(m.lost, lost)
	}
}

// Get returns the session of an ID. It waits for one that has not come yet, Options.Wait at most. The error names the
// ID, and is ErrNoSession, or a *LostError for a session that has been there and has ended. What is before a colon in
// the ID is not looked at: clients prefix IDs to tell vertices apart.
func (m *Manager) Get(ctx context.Context, id string) (*Session, error) {
	if _, rest, ok := strings.Cut(id, ":"); ok && rest != "" {
		id = rest
	}
	timer := time.NewTimer(m.opt.Wait)
	defer timer.Stop()
	for {
		s, changed, lost := m.find(id)
		if s != nil {
			select {
			case <-s.ready:
				return s, nil
			case <-ctx.Done():
				return nil, fmt.Errorf("waiting for the client's session %s: %w", s.id, context.Cause(ctx))
			}
		}
		if lost != nil {
			return nil, lost
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the client's session %s: %w", printable(id, 100), context.Cause(ctx))
		case <-timer.C:
			return nil, fmt.Errorf("waiting for the client's session %s: %w within %s; a client has to open it while its build runs",
				printable(id, 100), ErrNoSession, m.opt.Wait)
		}
	}
}

func (m *Manager) find(id string) (*Session, <-chan struct{}, *LostError) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions[id]; s != nil {
		var lost *LostError
		if errors.As(context.Cause(s.ctx), &lost) { // it is about to be removed
			return nil, nil, lost
		}
		return s, nil, nil
	}
	for _, l := range m.lost {
		if l.ID == id {
			return nil, nil, l
		}
	}
	return nil, m.changed, nil
}

// Sessions returns how many sessions there are.
func (m *Manager) Sessions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.sessions)
}
