package away

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// described writes the description of a container on network n with so many others of the same name, and returns the
// directory.
func described(t testing.TB, others int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range others + 1 {
		d := map[string]any{"Container": fmt.Sprint(i), "Endpoints": []any{map[string]any{
			"Network": "id", "NetworkName": "n", "Addrs": []string{fmt.Sprintf("10.0.%d.%d/16", i/250, i%250+1), fmt.Sprintf("fd00::%x/64", i+1)},
			"DNSNames": []string{"many", fmt.Sprintf("c%d", i)},
		}}}
		raw, err := json.Marshal(d)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"half.json": `{"Container":"x","Endpoi`, "ports.sock": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// query asks for a name; size, if it is not 0, is what the client says that it can take.
func query(name string, kind dnsmessage.Type, size int) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{
		{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET},
	}}
	if size > 0 {
		m.Additionals = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeOPT, Class: dnsmessage.Class(size)},
			Body:   &dnsmessage.OPTResource{},
		}}
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// What is too long for a datagram is cut, and says so; by TCP, or for who can take it, it is there in full.
func TestSizes(t *testing.T) {
	s := &Server{book: read(described(t, 100), "0")}
	for _, c := range []struct {
		name    string
		kind    dnsmessage.Type
		size    int
		overTCP bool
		answers int
		cut     bool
	}{
		{"c1.", dnsmessage.TypeA, 0, false, 1, false},
		{"C1.n.", dnsmessage.TypeAAAA, 0, false, 1, false},
		{"many.", dnsmessage.TypeA, 0, false, 0, true},
		{"many.", dnsmessage.TypeA, 4096, false, 101, false},
		{"many.", dnsmessage.TypeA, 0, true, 101, false},
		{"many.", dnsmessage.TypeTXT, 0, false, 0, false},
		{"1.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, 0, false, 1, false},
	} {
		var m dnsmessage.Message
		if err := m.Unpack(s.answer(query(c.name, c.kind, c.size), c.overTCP)); err != nil {
			t.Fatal(err)
		}
		if len(m.Answers) != c.answers || m.Truncated != c.cut || m.ID != 7 || !m.Response || !m.RecursionDesired || m.RCode != dnsmessage.RCodeSuccess {
			t.Errorf("%s %v in %d bytes, by TCP %v: %d answers, %+v", c.name, c.kind, c.size, c.overTCP, len(m.Answers), m.Header)
		}
	}
}

// A server that fails or refuses is followed by the next one; whose answers are all such has the last of them; what is
// outside is not asked for a container that is to reach nobody.
func TestForward(t *testing.T) {
	codes := map[string]dnsmessage.RCode{"127.0.0.81": dnsmessage.RCodeServerFailure, "127.0.0.82": dnsmessage.RCodeRefused, "127.0.0.83": dnsmessage.RCodeNameError}
	for addr, code := range codes {
		pc, err := net.ListenPacket("udp4", addr+":53")
		if err != nil {
			if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EADDRINUSE) {
				t.Skipf("port 53 is root's, or a neighbour's: %v", err)
			}
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		go func() {
			buf := make([]byte, 512)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				var m dnsmessage.Message
				if m.Unpack(buf[:n]) == nil {
					_, _ = pc.WriteTo(append([]byte{buf[0] ^ 1}, buf[1:n]...), from) // of somebody who guesses
					_, _ = pc.WriteTo(reply(m.Header, m.Questions, code, nil), from)
				}
			}
		}()
	}
	for _, c := range []struct {
		ask     bool
		servers []string
		want    dnsmessage.RCode
	}{
		{true, []string{"127.0.0.81", "127.0.0.83"}, dnsmessage.RCodeNameError},
		{true, []string{"127.0.0.81", "127.0.0.82"}, dnsmessage.RCodeRefused},
		{false, []string{"127.0.0.83"}, dnsmessage.RCodeServerFailure},
	} {
		s := &Server{cfg: Config{Ask: c.ask}, ctx: t.Context()}
		for _, a := range c.servers {
			s.cfg.Servers = append(s.cfg.Servers, netip.MustParseAddr(a))
		}
		var m dnsmessage.Message
		if err := m.Unpack(s.answer(query("outside.", dnsmessage.TypeA, 0), false)); err != nil || m.RCode != c.want || m.ID != 7 {
			t.Errorf("%+v: got %+v, %v", c, m.Header, err)
		}
	}
}

// Whatever a container sends, an answer is one to it, and fits.
func FuzzAnswer(f *testing.F) {
	f.Add(query("c1.", dnsmessage.TypeA, 0))
	f.Add(query("many.", dnsmessage.TypeAAAA, 600))
	f.Add(query("1.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, 0))
	s := &Server{book: read(described(f, 40), "0")}
	f.Fuzz(func(t *testing.T, data []byte) {
		a := s.answer(data, false)
		if a == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(a); err != nil || !m.Response || a[0] != data[0] || a[1] != data[1] || len(a) > 64<<10 {
			t.Errorf("%x is answered with %x: %v", data, a, err)
		}
	})
}
