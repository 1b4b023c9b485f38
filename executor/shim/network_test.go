package shim_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/netns"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// withNetwork gives an executor a network of its own.
func withNetwork(t testing.TB) func(*shim.Options) { return withPool(newPool(t, "/etc/resolv.conf")) }

func withPool(p *netns.Pool) func(*shim.Options) {
	return func(o *shim.Options) { o.Network = p }
}

// newPool makes a network. It has to be made before the executor, so that it is closed after it.
func newPool(t testing.TB, resolvConf string) *netns.Pool {
	t.Helper()
	needsRoot(t)
	p, err := netns.New(netns.Options{
		ID: fmt.Sprintf("%06x%02x", os.Getpid()&0xffffff, number.Add(1)&0xff), ResolvConf: resolvConf,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// In a sandbox on the bridge, names are resolved by the host's servers, and one listening on loopback is among them;
// the sandbox has its own address, and the host's ports are closed to it.
func TestBridge(t *testing.T) {
	needsRoot(t)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, conf, "nameserver 127.0.8.53\n", 0o644)
	server := &dns.Server{Addr: "127.0.8.53:53", Net: "udp", Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		if rr, err := dns.NewRR(q.Question[0].Name + " 60 IN A 203.0.113.77"); err == nil && q.Question[0].Qtype == dns.TypeA {
			a.Answer = append(a.Answer, rr)
		}
		_ = w.WriteMsg(a)
	})}
	ready := make(chan struct{})
	server.NotifyStartedFunc = func() { close(ready) }
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case <-ready:
	case err := <-failed:
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Shutdown() })
	ln, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()

	pool := newPool(t, conf)
	e := newExecutor(t, withPool(pool))
	root, _ := newRoot(t)
	gw, err := pool.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	spec := sh(root, fmt.Sprintf("nslookup some.test; ifconfig eth0; nc -w 2 %s %d </dev/null && echo open; true",
		gw.Addr(), ln.Addr().(*net.TCPAddr).Port))
	spec.Network.Mode = executor.NetworkBridge
	if spec.ResolvConf, err = pool.ResolvConf(); err != nil {
		t.Fatal(err)
	}
	r := run(t, e, spec)
	if !strings.Contains(r.out, "203.0.113.77") || !strings.Contains(r.out, "inet addr:10.") || strings.Contains(r.out, "open") {
		t.Errorf("output is\n%s%s", r.out, r.err)
	}
}
