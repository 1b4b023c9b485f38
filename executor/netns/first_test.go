package netns_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/netns"
)

// The first packet that a new namespace sends is not lost: else a sandbox would wait a second for TCP or DNS to try
// again. The kernel counts the tries.
func TestFirstPacket(t *testing.T) {
	p, _ := newPool(t, func(o *netns.Options) { o.HostAccess = true })
	gw, err := p.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	server := netip.AddrPortFrom(gw.Addr(), echoServer(t, "0.0.0.0:0").Port())
	for range 8 {
		inside(t, bridge(t, p), func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}); err != nil {
				return err
			}
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil && info.Total_retrans != 0 {
				t.Errorf("connecting took %d more tries", info.Total_retrans)
			}
			return err
		})
	}
}
