package network

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker/network/nettest"
)

// likeDocker makes the chains that Docker's daemon makes when it starts, by one of the two forms of iptables.
func likeDocker(t *testing.T, form string) {
	t.Helper()
	for _, program := range []string{"iptables-" + form, "ip6tables-" + form} {
		for _, args := range []string{
			"-P FORWARD DROP", "-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-N DOCKER-ISOLATION-STAGE-1",
			"-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-ISOLATION-STAGE-1", "-A FORWARD -o docker0 -j ACCEPT",
		} {
			if out, err := exec.Command(program, append([]string{"-w"}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
				t.Skipf("%s %s: %v: %s", program, args, err, out)
			}
		}
		t.Cleanup(func() {
			for _, args := range []string{"-P FORWARD ACCEPT", "-F", "-X"} {
				_ = exec.Command(program, append([]string{"-w"}, strings.Fields(args)...)...).Run()
			}
		})
	}
}

// Beside a daemon of Docker's, which has what is not its own dropped, containers reach the world and are reached by their
// published ports, by IPv4 and IPv6, whichever form of iptables it uses and whichever daemon was there first. Its rules are
// as they were when our last network has gone.
func TestBesideDocker(t *testing.T) {
	for _, form := range []string{"nft", "legacy"} {
		for _, first := range []bool{true, false} {
			name := form + " after"
			if first {
				name = form + " before"
			}
			t.Run(name, func(t *testing.T) { besideDocker(t, form, first) })
		}
	}
}

func besideDocker(t *testing.T, form string, first bool) {
	if _, err := exec.LookPath("iptables-" + form); err != nil {
		t.Skip(err)
	}
	w := newWorld(t)
	peer := nettest.NewPeer(t, "peer-bd", netip.MustParsePrefix("198.51.100.24/30"))
	six := nettest.NewPeer(t, "peer-bd6", netip.MustParsePrefix("2001:db8:8::/64"))
	for _, p := range []*nettest.Peer{peer, six} {
		if err := p.Do(func() error { nettest.ServeTCP(t, "[::]:80"); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if first {
		likeDocker(t, form)
	}
	yes := true
	w.create(&network.CreateRequest{Name: "dual", EnableIPv6: &yes})
	r := request("web", on("dual"), publish("18150:80"))
	path := w.up(r)
	serve(t, path, "[::]:80", "")
	if !first {
		likeDocker(t, form)
		if form == "legacy" {
			tick := make(chan time.Time)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan bool)
			go func() {
				defer close(done)
				w.watchLegacy(ctx, tick)
			}()
			tick <- time.Time{}
			tick <- time.Time{} // the first has been dealt with
			cancel()
			<-done
		}
	}
	for _, c := range []struct {
		peer *nettest.Peer
		at   netip.Addr
	}{{peer, peer.Host}, {six, six.Host}} {
		in := netip.AddrPortFrom(c.at, 18150)
		out := netip.AddrPortFrom(c.peer.Addr, 80)
		for { // nft's changes are followed in the background
			got := ""
			if err := c.peer.Do(func() error {
				got, _ = nettest.Ask("tcp", in, time.Second)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if got == c.peer.Addr.String() {
				break
			}
		}
		within(t, path, func() { expect(t, "tcp", out.String(), c.peer.Host.String()) })
	}
	w.down(r)
	if err := w.Remove(context.Background(), "dual"); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"iptables-" + form, "ip6tables-" + form} {
		list, err := exec.Command(program, "-w", "-S", "FORWARD").Output()
		if err != nil || strings.Contains(string(list), "-i br-") || !strings.Contains(string(list), "-P FORWARD DROP") {
			t.Errorf("%s has %v\n%s", program, err, list)
		}
	}
}
