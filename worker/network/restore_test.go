package network

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/nettest"
)

// A container keeps its address, its connections from outside and its names while no daemon is there and when the next one
// is; what containers that have ended have is given back.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	runs, ended := request("runs", publish("18100:80")), request("ended", publish("18101:80"))
	path := w.up(runs)
	serve(t, path, "0.0.0.0:80", "")
	endedPath := w.up(ended)
	before := w.Settings(runs.ID)
	w.crash()
	gw := before.Networks[nameBridge].Gateway.String()
	expect(t, "tcp", "127.0.0.1:18100", gw) // with no daemon
	w.start()
	got, err := w.Restore(context.Background(), runs)
	if err != nil || got.Network.Path != path {
		t.Fatalf("got %+v, %v", got, err)
	}
	if err := w.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := w.Settings(runs.ID); !sameJSON(before, after) {
		t.Errorf("settings were %+v and are %+v", before, after)
	}
	if w.Settings(ended.ID) != nil {
		t.Error("what has ended has settings")
	}
	expect(t, "tcp", "127.0.0.1:18100", gw)
	expect(t, "tcp", "[::1]:18100", gw)
	again := request("again", publish("18101:80"))
	if p := w.up(again); p == endedPath {
		t.Errorf("got the namespace of what has ended")
	}
	if _, err := w.Setup(context.Background(), request("clash", publish("18100:80"))); err == nil {
		t.Error("a port that was published before the restart is had twice")
	}
}

// What somebody has removed of a running container's network is made again.
func TestRestoreMends(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, w *world, veth string){
		"the bridge": func(t *testing.T, w *world, _ string) { removeLink(t, w.opts.Bridge) },
		"the veth":   func(t *testing.T, _ *world, veth string) { removeLink(t, veth) },
		"the rules":  func(t *testing.T, w *world, _ string) { flushRules(t, w) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.Bridge = "test-mend" })
			r := request("web", publish("18110:80"))
			path := w.up(r)
			serve(t, path, "0.0.0.0:80", "")
			veth := w.sandboxes[r.ID].Endpoints[0].Veth
			gw := w.Settings(r.ID).Networks[nameBridge].Gateway.String()
			w.crash()
			harm(t, w, veth)
			w.start()
			if _, err := w.Restore(context.Background(), r); err != nil {
				t.Fatal(err)
			}
			if err := w.Settle(context.Background()); err != nil {
				t.Fatal(err)
			}
			expect(t, "tcp", "127.0.0.1:18110", gw)
		})
	}
}

func removeLink(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func flushRules(t *testing.T, w *world) {
	t.Helper()
	if out, err := exec.Command("nft", "delete", "table", "inet", "boxbuild_"+w.opts.ID+"_run").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// Rules that another program removes while the daemon runs are made again (CVE-2025-54410), and a chain that another
// program makes and that drops what it does not know lets containers' packets pass.
func TestRulesOfOthers(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	w := newWorld(t)
	peer := nettest.NewPeer(t, "peer-fw", netip.MustParsePrefix("198.51.100.16/30"))
	r := request("web", publish("18120:80"))
	path := w.up(r)
	serve(t, path, "0.0.0.0:80", "")
	reach := func() bool {
		got := ""
		if err := peer.Do(func() error {
			got, _ = nettest.Ask("tcp", netip.AddrPortFrom(peer.Host, 18120), time.Second)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return got == peer.Addr.String()
	}
	await := func(what string) {
		t.Helper()
		for !reach() {
			if t.Context().Err() != nil {
				t.Fatalf("%s: not reached", what)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	await("at first")
	flushRules(t, w)
	await("without the table")
	const other = "add table ip test_fw; add chain ip test_fw FORWARD { type filter hook forward priority 0; policy drop; }"
	if out, err := exec.Command("nft", other).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer exec.Command("nft", "delete table ip test_fw").Run()
	await("with another firewall")
	list := func() string {
		out, _ := exec.Command("nft", "list", "table", "ip", "test_fw").CombinedOutput()
		return string(out)
	}
	w.down(r)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if got := list(); strings.Contains(got, "accept\n") {
		t.Errorf("rules are left in\n%s", got)
	}
}

// 200 containers come and go, 50 at a time. All have different addresses and ports while they are there, and nothing is
// left of them.
func TestMany(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	used := make(map[netip.Addr]string)
	slots := make(chan struct{}, 50)
	var wg sync.WaitGroup
	for i := range 200 {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var change []func(*worker.NetworkRequest)
			if i%4 == 0 {
				change = append(change, publish("0:80"))
			}
			r := request(fmt.Sprintf("c%d", i), change...)
			if _, err := w.Setup(context.Background(), r); err != nil {
				t.Error(err)
				return
			}
			a := w.addr(r, nameBridge)
			mu.Lock()
			if who := used[a]; who != "" {
				t.Errorf("%s and %s have %s", who, r.Name, a)
			}
			used[a] = r.Name
			mu.Unlock()
			mu.Lock()
			delete(used, a)
			mu.Unlock()
			if err := w.Teardown(context.Background(), r.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(w.byName(nameBridge).endpoints); n > 0 {
		t.Errorf("%d endpoints are left", n)
	}
}

// helperDir has TestKill's helper begin: it sets containers up and tears them down until it is killed.
const helperDir = "BOXBUILD_NETWORK_HELPER"

func TestHelper(t *testing.T) {
	dir := os.Getenv(helperDir)
	if dir == "" {
		t.Skip("is run by TestKill")
	}
	w := openWorld(t, dir)
	for i := 0; ; i++ {
		r := request(fmt.Sprintf("c%d", i), publish("0:80", "0:80/udp"))
		if _, err := w.Setup(context.Background(), r); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			fmt.Println("started")
		}
		if i%3 > 0 {
			w.down(r)
		}
	}
}

// openWorld is a world of a root that the parent of the process knows.
func openWorld(t *testing.T, dir string) *world {
	w := &world{t: t, opts: Options{
		ID: "deadbeef", Dir: dir + "/netns", Warm: 2, ResolvConf: dir + "/resolv.conf", PortsCommand: portsCommand, DB: openDB(t, dir),
	}}
	w.start()
	return w
}

// A daemon that is killed at any moment leaves nothing that the next one does not give back.
func TestKill(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	writeTest(t, dir+"/resolv.conf", "nameserver 192.0.2.53\n")
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelper$", "-test.v")
		cmd.Env = append(os.Environ(), helperDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaitLine(t, out, "started")
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond) // a random moment
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		w := openWorld(t, dir)
		if err := w.Settle(context.Background()); err != nil {
			t.Error(err)
		}
		r := request("after", publish("0:80"))
		path := w.up(r)
		serve(t, path, "0.0.0.0:80", "")
		port := w.Settings(r.ID).Ports[w.sandboxes[r.ID].Ports[0].Container][0].HostPort
		expect(t, "tcp", "127.0.0.1:"+port, w.Settings(r.ID).Networks[nameBridge].Gateway.String())
		w.down(r)
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		w.opts.DB.Close()
		w.checkNothingLeft()
	}
}

// Two daemons that start at the same time do not take the same subnet, and each one's end is not the other's.
func TestTwoDaemons(t *testing.T) {
	a, b := newWorld(t), newWorld(t)
	if a.byName(nameBridge).subnets[0].Prefix != b.byName(nameBridge).subnets[0].Prefix {
		t.Error("they begin with different subnets, so that this shows nothing")
	}
	one, two := request("one"), request("two")
	a.up(one)
	b.up(two)
	x, y := a.byName(nameBridge).subnets[0].Prefix, b.byName(nameBridge).subnets[0].Prefix
	if x.Overlaps(y) || !x.Contains(a.addr(one, nameBridge)) || !y.Contains(b.addr(two, nameBridge)) {
		t.Errorf("the subnets are %s and %s", x, y)
	}
	a.down(one)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	third := request("third")
	path := b.up(third)
	serve(t, path, "0.0.0.0:80", "")
	expect(t, "tcp", b.addr(third, nameBridge).String()+":80", b.Settings(third.ID).Networks[nameBridge].Gateway.String())
}
