package bksession

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	bk "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
)

// upgrade asks the server at addr to make a connection a session, and returns it if it does.
func upgrade(ctx context.Context, addr, protocol string, md map[string][]string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/session", nil)
	if err != nil {
		return nil, err
	}
	for k, v := range md {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		_ = resp.Body.Close()
		return nil, errors.Join(fmt.Errorf("status %d", resp.StatusCode), conn.Close())
	}
	return &bufferedConn{Conn: conn, r: r}, nil
}

// A session that comes by an upgraded request is like any other. Requests that are none are answered.
func TestHTTP(t *testing.T) {
	m := New(patient(t))
	server := httptest.NewServer(m)
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	client, err := bk.NewSession(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	client.Allow(secretsprovider.FromMap(map[string][]byte{"k": []byte("v")}))
	done := make(chan error, 1)
	go func() {
		done <- client.Run(context.Background(), func(ctx context.Context, protocol string, md map[string][]string) (net.Conn, error) {
			return upgrade(ctx, addr, protocol, md)
		})
	}()
	s, err := m.Get(t.Context(), client.ID())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Secret(t.Context(), "k"); err != nil || string(got) != "v" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, tc := range []struct {
		protocol, id, want string
	}{{"h2c", client.ID(), "409"}, {"websocket", "other", "400"}, {"h2c", "", "400"}} {
		if _, err := upgrade(t.Context(), addr, tc.protocol, headersOf(tc.id)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: error %v", tc, err)
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-s.Context().Done()
}
