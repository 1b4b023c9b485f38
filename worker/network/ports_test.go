package network

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/worker/network/nettest"
)

// talk opens a connection to a server that says who asks, and returns it with what it has said.
func talk(t *testing.T, to string) (net.Conn, string) {
	t.Helper()
	c, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return c, line
}

// echo has a server in a container that says hello and then repeats what it is told.
func echo(t *testing.T, path, addr string) {
	t.Helper()
	within(t, path, func() {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					fmt.Fprintln(c, "hello")
					in := bufio.NewScanner(c)
					for in.Scan() {
						fmt.Fprintln(c, in.Text())
					}
				}()
			}
		}()
	})
}

// Published ports work while no daemon is there, also those that the packet filter cannot lead, and connections by them
// last until the container's ports are given back, which frees them. No other program gets them meanwhile.
func TestPortsWithoutDaemon(t *testing.T) {
	w := newWorld(t)
	r, gone := request("web", publish("18300:80", "18301:81", "18302:82/udp", "127.0.0.1:18303:81", "[::1]:18304:81")), request("gone", publish("18305:80"))
	path := w.up(r)
	w.up(gone)
	echo(t, path, "0.0.0.0:80")
	serve(t, path, "0.0.0.0:81", "0.0.0.0:82")
	gw := w.Settings(r.ID).Networks[nameBridge].Gateway.String()
	c, _ := talk(t, "[::1]:18300")
	defer c.Close()
	in := bufio.NewReader(c)
	say := func(what string) error {
		if _, err := fmt.Fprintln(c, what); err != nil {
			return err
		}
		got, err := in.ReadString('\n')
		if err == nil && got != what+"\n" {
			err = fmt.Errorf("got %q", got)
		}
		return err
	}
	w.crash()
	if err := say("still here"); err != nil {
		t.Errorf("a connection has not outlived the daemon: %v", err)
	}
	expect(t, "tcp", "[::1]:18301", gw)
	expect(t, "tcp", "127.0.0.1:18301", gw)
	expect(t, "tcp", "127.0.0.1:18303", gw)
	expect(t, "tcp", "[::1]:18304", gw)
	expect(t, "udp", "[::1]:18302", gw)
	if ln, err := net.Listen("tcp", "[::]:18301"); err == nil {
		ln.Close()
		t.Error("another program gets the port")
	}
	w.start()
	if _, err := w.Restore(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	if err := w.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "[::]:18305") // of what has ended
	if err != nil {
		t.Error(err)
	} else {
		ln.Close()
	}
	if err := say("again"); err != nil {
		t.Errorf("a connection has not outlived the restart: %v", err)
	}
	expect(t, "tcp", "[::1]:18301", gw)
	w.down(r)
	if err := say("over"); err == nil {
		t.Error("a connection has outlived the container's ports")
	}
	if ln, err = net.Listen("tcp", "[::]:18301"); err != nil {
		t.Error(err)
	} else {
		ln.Close()
	}
}

// children are the processes for published ports that this test has started.
func children(t *testing.T) []int {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, l := range lists {
		b, err := os.ReadFile(l)
		if err != nil {
			continue // the thread has ended
		}
		for f := range strings.FieldsSeq(string(b)) {
			env, _ := os.ReadFile("/proc/" + f + "/environ")
			if strings.Contains(string(env), portsHelper+"=1") {
				var pid int
				if _, err := fmt.Sscan(f, &pid); err == nil {
					out = append(out, pid)
				}
			}
		}
	}
	return out
}

// When the process that carries is killed, another carries the same; and it ends with the last container and the daemon.
func TestPortsProcessDies(t *testing.T) {
	w := newWorld(t)
	r := request("web", publish("18310:80"))
	serve(t, w.up(r), "0.0.0.0:80", "")
	gw := w.Settings(r.ID).Networks[nameBridge].Gateway.String()
	expect(t, "tcp", "[::1]:18310", gw)
	pids := children(t)
	if len(pids) == 0 {
		t.Skip("the kernel does not list children")
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for { // the old process has gone, and a new one is there
		now := children(t)
		if len(now) > 0 && !slices.Equal(now, pids) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for {
		got, _ := nettest.Ask("tcp", netip.MustParseAddrPort("[::1]:18310"), time.Second)
		if got == gw {
			break
		}
		time.Sleep(time.Millisecond)
	}
	expect(t, "tcp", "127.0.0.1:18310", gw)
	w.down(r)
	if ln, err := net.Listen("tcp", "[::]:18310"); err != nil {
		t.Error(err)
	} else {
		ln.Close()
	}
}

// On a kernel without SCTP a port of it is refused by its name.
func TestNoSCTP(t *testing.T) {
	if fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 132); err == nil {
		syscall.Close(fd)
		t.Skip("this kernel has SCTP")
	}
	w := newWorld(t)
	_, err := w.Setup(context.Background(), request("sctp", publish("18320:80/sctp")))
	if err == nil || !strings.Contains(err.Error(), "failed to bind host port 0.0.0.0:18320/sctp: protocol not supported") {
		t.Errorf("got %v", err)
	}
}
