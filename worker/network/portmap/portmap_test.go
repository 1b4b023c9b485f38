package portmap

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker/network/nettest"
	"github.com/boxbuild/boxbuild/worker/network/portmap/carry"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

func want(container, ip string, first, last uint16) Want {
	w := Want{Container: network.MustParsePort(container), First: first, Last: last}
	if ip != "" {
		w.IP = netip.MustParseAddr(ip)
	}
	return w
}

func reserve(t *testing.T, p *Ports, wants ...Want) *Lease {
	t.Helper()
	l, err := p.Reserve("id", wants)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A reservation is all that is asked for or nothing: after one that fails, its first part is free.
func TestAllOrNothing(t *testing.T) {
	p := New(carry.NewTable())
	first := reserve(t, p, want("80", "127.0.0.1", 0, 0))
	port := first.Bindings()[0].Host.Port()
	_, err := p.Reserve("other", []Want{want("81", "127.0.0.1", 0, 0), want("82/udp", "127.0.0.1", 0, 0), want("83", "", port, port)})
	if err == nil || !strings.Contains(err.Error(), "port is already allocated") {
		t.Fatalf("got %v", err)
	}
	if len(p.used) != 1 {
		t.Errorf("%d ports are taken, want 1", len(p.used))
	}
	first.Close()
	first.Close() // again
	if len(p.used) != 0 {
		t.Errorf("%d ports are taken, want none", len(p.used))
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

// What is reserved no other program gets.
func TestHeld(t *testing.T) {
	l := reserve(t, New(carry.NewTable()), want("80", "", 0, 0), want("80/udp", "", 0, 0))
	for _, b := range l.Bindings() {
		var c io.Closer
		var err error
		if b.Container.Proto() == network.TCP {
			c, err = net.Listen("tcp", b.Host.String())
		} else {
			c, err = net.ListenPacket("udp", b.Host.String())
		}
		if err == nil {
			c.Close()
			t.Errorf("%s can be had twice", b.Host)
		}
	}
	if n := len(l.Bindings()); n != 4 && n != 2 {
		t.Errorf("%d bindings", n)
	}
}

// A port for which any will do is another each time, of those that the kernel gives away.
func TestEphemeral(t *testing.T) {
	p := New(carry.NewTable())
	first, last := ephemeral()
	seen := make(map[uint16]bool)
	for range 20 {
		l := reserve(t, p, want("80", "127.0.0.1", 0, 0))
		port := l.Bindings()[0].Host.Port()
		if seen[port] || port < first || port > last {
			t.Errorf("got %d of %d to %d, seen before: %v", port, first, last, seen[port])
		}
		seen[port] = true
		l.Close()
	}
}

// Of a range the first port that is free is had.
func TestRange(t *testing.T) {
	p := New(carry.NewTable())
	a := reserve(t, p, want("80", "127.0.0.1", 20100, 20102))
	b := reserve(t, p, want("80", "127.0.0.1", 20100, 20102))
	reserve(t, p, want("80", "127.0.0.1", 20100, 20102))
	if a.Bindings()[0].Host.Port() != 20100 || b.Bindings()[0].Host.Port() != 20101 {
		t.Errorf("got %v and %v", a.Bindings(), b.Bindings())
	}
	if _, err := p.Reserve("other", []Want{want("80", "127.0.0.1", 20100, 20102)}); err == nil || err.Error() != "Bind for 127.0.0.1:20100-20102 failed: all ports are allocated" {
		t.Errorf("got %v", err)
	}
}

// Addresses clash if they are the same or one of them stands for all of their family; others are had side by side.
func TestClash(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "127.0.0.2", false},
		{"0.0.0.0", "127.0.0.2", true},
		{"127.0.0.2", "0.0.0.0", true},
		{"0.0.0.0", "::1", false},
		{"::", "::1", true},
	} {
		p := New(carry.NewTable())
		reserve(t, p, want("80", c.a, 20200, 20200)).Close()
		l := reserve(t, p, want("80", c.a, 20200, 20200))
		other, err := p.Reserve("other", []Want{want("81", c.b, 20200, 20200)})
		if (err != nil) != c.want {
			t.Errorf("%s and %s: got %v", c.a, c.b, err)
		}
		if err == nil {
			other.Close()
		}
		l.Close()
	}
}

// A port that another program has taken while no daemon was there is the container's all the same; for another container
// it is not to be had.
func TestRestore(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := New(carry.NewTable())
	b := Binding{Container: network.MustParsePort("80"), Host: netip.MustParseAddrPort(ln.Addr().String())}
	l, err := p.Restore("id", []Binding{b})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := p.Reserve("other", []Want{want("80", "127.0.0.1", b.Host.Port(), b.Host.Port())}); !isTaken(err) {
		t.Errorf("got %v", err)
	}
}

// What comes to a socket is carried to the container and back, whole, also when one side has no more to say; a container
// that does not listen refuses.
func TestServe(t *testing.T) {
	server, err := net.Listen("tcp4", "127.0.0.5:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				data, _ := io.ReadAll(c) // until the client has no more to say
				_, _ = c.Write(append([]byte("got "), data...))
			}()
		}
	}()
	container := server.Addr().(*net.TCPAddr).Port
	l := reserve(t, New(carry.NewTable()), want(fmt.Sprint(container), "::1", 0, 0), want("1", "::1", 0, 0))
	if err := l.Serve(netip.MustParseAddr("127.0.0.5")); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789", 100_000)
	for _, sent := range []string{"", "x", big} {
		c, err := net.Dial("tcp", l.Bindings()[0].Host.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, sent); err != nil {
			t.Error(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil || string(got) != "got "+sent {
			t.Errorf("sent %d bytes, got %d, %v", len(sent), len(got), err)
		}
		c.Close()
	}
	c, err := net.Dial("tcp", l.Bindings()[1].Host.String())
	if errors.Is(err, syscall.ECONNRESET) {
		return // it came before the connection was looked at
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("got %d bytes, %v: want a reset", n, err)
	}
}

// Many ports are reserved at once, and given back.
func TestManyPorts(t *testing.T) {
	p := New(carry.NewTable())
	var wants []Want
	for port := uint16(21000); port < 23000; port++ {
		wants = append(wants, want(fmt.Sprint(port), "127.0.0.1", port, port))
	}
	l := reserve(t, p, wants...)
	if err := l.Serve(netip.MustParseAddr("127.0.0.5")); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if len(p.used) > 0 {
		t.Errorf("%d ports are taken", len(p.used))
	}
}

// Many ports that may each be any of one range get one each, and soon: a port of the range that is taken costs a look, and not
// one at all that have been reserved, with which a single request would keep the daemon busy for minutes (CVE-2018-20699).
func TestManyRanges(t *testing.T) {
	p := New(carry.NewTable())
	const n = 2000
	var wants []Want
	for i := range uint16(n) {
		wants = append(wants, want(fmt.Sprint(i+1), "127.0.0.1", 24000, 24000+n+100))
	}
	l := reserve(t, p, wants...)
	got := map[uint16]bool{}
	for _, b := range l.Bindings() {
		got[b.Host.Port()] = true
	}
	if len(l.Bindings()) != n || len(got) != n {
		t.Errorf("there are %d bindings of %d ports", len(l.Bindings()), len(got))
	}
	l.Close()
}
