package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A peer speaks HTTP/2 by frames, and need not keep to its rules.
type peer struct {
	net.Conn
	*http2.Framer
	block strings.Builder
	enc   *hpack.Encoder
}

func newPeer(t *testing.T, addr string) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{Conn: conn, Framer: http2.NewFramer(conn, conn)}
	p.enc = hpack.NewEncoder(&p.block)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return p
}

// headers encodes fields.
func (p *peer) headers(fields ...string) []byte {
	p.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // to memory
	}
	return []byte(p.block.String())
}

func (p *peer) call() []byte {
	return p.headers(":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/boxbuild.v1.System/Ping", "content-type", "application/grpc", "te", "trailers")
}

// TestFloods checks that a client that sends frames without end, as those that brought down other servers, takes neither memory
// that stays nor goroutines that go on, and that others are served meanwhile (CVE-2023-44487, CVE-2026-97032 and its kin).
func TestFloods(t *testing.T) {
	s, conn := serveTest(t)
	addr := s.endpoints[1].Addr().String()
	ping := func() {
		t.Helper()
		if _, err := boxbuildv1.NewSystemClient(conn).Ping(t.Context(), &boxbuildv1.PingRequest{}); err != nil {
			t.Error(err)
		}
	}
	ping()
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	const n = 20_000
	for name, send := range map[string]func(p *peer, i int) error{
		"streams that are reset": func(p *peer, i int) error {
			id := uint32(2*i + 1)
			return errors.Join(p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.call(), EndHeaders: true}), p.WriteRSTStream(id, http2.ErrCodeCancel))
		},
		"streams that stay": func(p *peer, i int) error {
			return p.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: p.call(), EndHeaders: true})
		},
		"headers without end": func(p *peer, i int) error {
			if i == 0 {
				return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.call()})
			}
			return p.WriteContinuation(1, false, p.headers(fmt.Sprintf("x-%d", i), strings.Repeat("v", 1000)))
		},
		"trailers without end": func(p *peer, i int) error {
			if i == 0 {
				return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.call(), EndHeaders: true})
			}
			return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.headers("x", strings.Repeat("v", 1000)), EndHeaders: true})
		},
		"settings": func(p *peer, i int) error {
			return p.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(i % 2 * 4096)}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i % 2)})
		},
		"pings":   func(p *peer, _ int) error { return p.WritePing(false, [8]byte{1}) },
		"windows": func(p *peer, i int) error { return p.WriteWindowUpdate(0, 1) },
		"table sizes": func(p *peer, i int) error {
			p.enc.SetMaxDynamicTableSize(uint32(i % 2 * 4096))
			return p.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: p.call(), EndHeaders: true, EndStream: true})
		},
		"empty data": func(p *peer, i int) error {
			if i == 0 {
				return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.call(), EndHeaders: true})
			}
			return p.WriteData(1, false, nil)
		},
		"a huge message": func(p *peer, i int) error {
			if i == 0 {
				return errors.Join(p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.call(), EndHeaders: true}), p.WriteData(1, false, []byte{0, 0xff, 0xff, 0xff, 0xff}))
			}
			return p.WriteData(1, false, make([]byte, 1<<14))
		},
		"priorities": func(p *peer, i int) error {
			return p.WritePriority(uint32(2*i+1), http2.PriorityParam{StreamDep: uint32(2*i + 3)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, addr)
			sent := 0
			for ; sent < n; sent++ {
				// What is not read in time is as good as refused: the daemon waits for its own answers to be read.
				if err := errors.Join(p.SetWriteDeadline(time.Now().Add(200*time.Millisecond)), send(p, sent)); err != nil {
					break
				}
			}
			ping()
			t.Logf("%d were taken", sent)
			_ = p.Close()
			ping()
		})
	}
	for range 500 { // goroutines of the connections end by themselves
		if runtime.NumGoroutine() <= goroutines+5 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if after := runtime.NumGoroutine(); after > goroutines+5 {
		t.Errorf("there were %d goroutines, there are %d", goroutines, after)
	}
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	if after.HeapAlloc > before.HeapAlloc+32<<20 {
		t.Errorf("the heap had %d MiB, and has %d", before.HeapAlloc>>20, after.HeapAlloc>>20)
	}
}
