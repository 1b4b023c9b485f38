package network

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// outside starts a DNS server that a container can reach by the host alone, and which knows one address for all names.
func outside(t *testing.T, addr string) {
	t.Helper()
	for _, proto := range []string{"udp", "tcp"} {
		up := &dns.Server{Addr: addr, Net: proto, Handler: dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
			a := new(dns.Msg).SetReply(q)
			a.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: []byte{203, 0, 113, 9},
			}}
			_ = rw.WriteMsg(a)
		})}
		started := make(chan struct{})
		up.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = up.ListenAndServe()
		}()
		<-started
		t.Cleanup(func() {
			_ = up.Shutdown()
			<-done
		})
	}
}

// Names are answered alike with a daemon, with none, with one that has not taken the containers over yet, and with the next:
// those of containers, addresses, links, what is outside, and, for who is to reach nobody outside, that there is no answer.
func TestNamesAway(t *testing.T) {
	outside(t, "127.0.0.78:53")
	w := newWorld(t, func(o *Options) { writeTest(t, o.ResolvConf, "nameserver 127.0.0.78\n") })
	w.create(&network.CreateRequest{Name: "app"})
	w.create(&network.CreateRequest{Name: "secret", Internal: true})
	db, db2, hidden := request("db1", on("app", "db")), request("db2", on("app", "db")), request("hidden", on("secret"))
	web := request("web", on("app", "front"), func(r *worker.NetworkRequest) { r.Endpoints["app"].Links = []string{"db1:store"} })
	w.up(db)
	w.up(db2)
	path, hiddenPath := w.up(web), w.up(hidden)
	reverse, err := dns.ReverseAddr(w.addr(db, "app").String())
	if err != nil {
		t.Fatal(err)
	}
	answers := func() string {
		t.Helper()
		var b strings.Builder
		for _, q := range []struct {
			name string
			kind uint16
		}{
			{"db1", dns.TypeA},
			{"DB1.App", dns.TypeA},
			{"db", dns.TypeA},
			{"store", dns.TypeA},
			{db.ID[:12], dns.TypeA},
			{"web", dns.TypeA},
			{"db1", dns.TypeAAAA},
			{"db1", dns.TypeMX},
			{reverse, dns.TypePTR},
			{"nobody.example", dns.TypeA},
			{"hidden", dns.TypeA},
		} {
			for _, proto := range []string{"udp", "tcp"} {
				got, code := lookup(t, path, proto, q.name, q.kind)
				inside, none := lookup(t, hiddenPath, proto, q.name, q.kind)
				fmt.Fprintln(&b, proto, q.name, dns.TypeToString[q.kind], got, code, inside, none)
			}
		}
		return b.String()
	}
	want := answers()
	for _, part := range []string{"udp store A [" + w.addr(db, "app").String() + "] 0 [] 2", "PTR [db1.app.] 0", "nobody.example A [203.0.113.9] 0 [] 2"} {
		if !strings.Contains(want, part) {
			t.Errorf("with a daemon there is no %q:\n%s", part, want)
		}
	}
	for round := range 3 {
		if pids := children(t); round == 2 && len(pids) > 0 { // whoever answers next has been killed before
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			w.handAll()
		}
		w.crash()
		if got := answers(); got != want {
			t.Errorf("round %d, without a daemon:\n%s\nwant\n%s", round, got, want)
		}
		w.start()
		if got := answers(); got != want {
			t.Errorf("round %d, with one that has just started:\n%s\nwant\n%s", round, got, want)
		}
		for _, r := range []*worker.NetworkRequest{db, db2, web, hidden} {
			if _, err := w.Restore(context.Background(), r); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Settle(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := answers(); got != want {
			t.Errorf("round %d, with the next:\n%s\nwant\n%s", round, got, want)
		}
	}
	// The next daemon's answers are its own: what has changed since is known.
	if err := w.Teardown(context.Background(), db2.ID); err != nil {
		t.Fatal(err)
	}
	if got, _ := lookup(t, path, "udp", "db", dns.TypeA); !slices.Equal(got, []string{w.addr(db, "app").String()}) {
		t.Errorf("db is %v", got)
	}
	w.crash()
	if got, _ := lookup(t, path, "udp", "db", dns.TypeA); !slices.Equal(got, []string{w.addr(db, "app").String()}) {
		t.Errorf("without a daemon db is %v", got)
	}
	w.start()
}
