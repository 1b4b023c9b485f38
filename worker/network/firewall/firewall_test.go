package firewall

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker/network/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

func open(t *testing.T, id string) *Table {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	table, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Remove(); err != nil {
			t.Error(err)
		}
		table.Close()
	})
	return table
}

// show returns the table as nft(8) shows it.
func show(t *testing.T, table *Table) string {
	t.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs nft")
	}
	out, err := exec.Command(nft, "list", "table", "inet", table.name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func network(bridge, subnet string) *Network {
	return &Network{Bridge: bridge, Subnets: []netip.Prefix{netip.MustParsePrefix(subnet)}, Masquerade: true}
}

func publication(proto uint8, host, to string) Publication {
	return Publication{Proto: proto, Host: netip.MustParseAddrPort(host), To: netip.MustParseAddrPort(to)}
}

// A table that is made holds all of its state; made again, it holds the new one only.
func TestMake(t *testing.T) {
	table := open(t, "00000001")
	state := &State{
		Networks: []Network{*network("br-one", "172.17.0.0/16"), *network("br-six", "fd00:1::/64")},
		Publications: []Publication{
			publication(unix.IPPROTO_TCP, "0.0.0.0:8080", "172.17.0.2:80"),
			publication(unix.IPPROTO_UDP, "127.0.0.1:53", "172.17.0.3:5353"),
			publication(unix.IPPROTO_TCP, "[::]:8080", "[fd00:1::2]:80"),
			publication(unix.IPPROTO_SCTP, "[2001:db8::1]:9", "[fd00:1::2]:9"),
		},
	}
	if err := table.Make(state); err != nil {
		t.Fatal(err)
	}
	got := show(t, table)
	for _, want := range []string{
		`"br-one"`, "172.17.0.0/16", "fd00:1::/64", `"br-six" . "br-six"`, "tcp . 8080 : 172.17.0.2 . 80",
		"udp . 127.0.0.1 . 53 : 172.17.0.3 . 5353", "tcp . 8080 : fd00:1::2 . 80", "sctp . 2001:db8::1 . 9 : fd00:1::2 . 9",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if err := table.Make(&State{}); err != nil {
		t.Fatal(err)
	}
	if got := show(t, table); strings.Contains(got, "172.17") || strings.Contains(got, "br-") || !strings.Contains(got, "masquerade") {
		t.Errorf("an empty table is\n%s", got)
	}
}

// Thousands of ports are published and withdrawn, and a table is made with them and with hundreds of networks: the kernel's
// answers have room.
func TestMany(t *testing.T) {
	table := open(t, "00000002")
	var list []Publication
	for i := range 3000 {
		list = append(list, publication(unix.IPPROTO_TCP, fmt.Sprintf("0.0.0.0:%d", 10000+i), fmt.Sprintf("10.0.0.2:%d", 1+i)))
	}
	state := new(State)
	for i := range 300 {
		state.Networks = append(state.Networks, *network(fmt.Sprintf("br-%d", i), fmt.Sprintf("10.%d.%d.0/24", 1+i/256, i%256)))
	}
	if err := table.Make(state); err != nil {
		t.Fatal(err)
	}
	if err := table.Publish(list); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(show(t, table), " : 10.0.0.2 . "); got != len(list) {
		t.Errorf("%d ports are published, want %d", got, len(list))
	}
	for range 2 { // what is not there any more is no error
		if err := table.Withdraw(list[:200]); err != nil {
			t.Fatal(err)
		}
	}
	state.Publications = list
	if err := table.Make(state); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(show(t, table), " : 10.0.0.2 . "); got != len(list) {
		t.Errorf("%d ports are in a table made with %d", got, len(list))
	}
}

// Ports of containers that are started and ended at the same time are all published: no transaction takes in a part of
// another's, or fails with it.
func TestConcurrent(t *testing.T) {
	table := open(t, "00000003")
	if err := table.Make(new(State)); err != nil {
		t.Fatal(err)
	}
	const workers, each = 4, 10
	var work sync.WaitGroup
	for w := range workers {
		work.Go(func() {
			for i := range each {
				port := 10000 + w*each + i
				absent := publication(unix.IPPROTO_UDP, fmt.Sprintf("0.0.0.0:%d", port), "10.0.0.3:1")
				if err := table.Withdraw([]Publication{absent}); err != nil {
					t.Error(err)
				}
				if err := table.Publish([]Publication{publication(unix.IPPROTO_TCP, fmt.Sprintf("0.0.0.0:%d", port), "10.0.0.2:80")}); err != nil {
					t.Error(err)
				}
				if there, err := table.There(); err != nil || !there {
					t.Errorf("the table is there: %v, %v", there, err)
				}
			}
		})
	}
	work.Wait()
	if got := strings.Count(show(t, table), " : 10.0.0.2 . "); got != workers*each {
		t.Errorf("%d ports are published, want %d", got, workers*each)
	}
}
