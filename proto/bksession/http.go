package bksession

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// ServeHTTP implements http.Handler for the Docker Engine's way to open a session: POST /session with "Upgrade: h2c",
// whose connection then is the session's. It returns when the session has ended. What is refused is answered first.
func (m *Manager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, err := parseHeaders(r.Header)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "h2c") {
		http.Error(w, "opening a session: the request has to upgrade its connection to h2c", http.StatusBadRequest)
		return
	}
	if m.has(h.id) {
		http.Error(w, fmt.Sprintf("opening session %s: %v", h.id, ErrExists), http.StatusConflict)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, fmt.Sprintf("opening session %s: %v", h.id, err), http.StatusInternalServerError)
		return
	}
	const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
	if _, err := io.WriteString(conn, answer); err != nil {
		_ = conn.Close()
		return
	}
	// Nobody is left to be told how it ended: the builds that use the session know.
	_ = m.Serve(r.Context(), &bufferedConn{Conn: conn, r: rw.Reader}, r.Header)
}

func (m *Manager) has(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions[id] != nil
}

// A bufferedConn reads first what the server has read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(b []byte) (int, error) {
	if c.r == nil {
		return c.Conn.Read(b)
	}
	if c.r.Buffered() == 0 {
		c.r = nil
		return c.Conn.Read(b)
	}
	return c.r.Read(b)
}
