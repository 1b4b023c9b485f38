package carry

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// helper has the program be the process.
const helper = "BOXBUILD_CARRY_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helper) != "" {
		if err := Serve(os.NewFile(3, "listener")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func newClient(t *testing.T, dir string, lost func(context.Context)) *Client {
	t.Helper()
	c := NewClient(ClientOptions{Dir: dir, Lost: lost, Command: func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), helper+"=1")
		cmd.Stderr = os.Stderr
		return cmd
	}})
	t.Cleanup(c.Close)
	return c
}

// container is a server at an address of the loopback's that returns what it is told, with its name.
func container(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.6:0")
	if err != nil {
		t.Fatal(err)
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
				data, _ := io.ReadAll(c)
				fmt.Fprintf(c, "%s %s", name, data)
			}()
		}
	}()
	return netip.MustParseAddrPort(ln.Addr().String())
}

// published returns a socket that listens, and its address; the test's own descriptor is closed when it ends.
func published(t *testing.T, port uint16) (Socket, string) {
	t.Helper()
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return Socket{File: f, Port: port}, ln.Addr().String()
}

func ask(addr, what string) string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	fmt.Fprint(c, what)
	_ = c.(*net.TCPConn).CloseWrite()
	got, _ := io.ReadAll(c)
	return string(got)
}

// Both carriers do the same: sockets are added, all of a container lead where it was said last, and nobody listens any more
// when Drop or Keep has returned.
func TestCarriers(t *testing.T) {
	for name, c := range map[string]Carrier{"table": NewTable(), "client": newClient(t, t.TempDir(), nil)} {
		t.Run(name, func(t *testing.T) {
			first := container(t, "first")
			a, at := published(t, first.Port())
			b, bt := published(t, first.Port())
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			if c, ok := c.(*Client); ok {
				must(c.Drop("nobody")) // and no process is started for that
			}
			must(c.Carry("1", first.Addr(), []Socket{a}))
			must(c.Carry("2", first.Addr(), []Socket{b}))
			for _, addr := range []string{at, bt} {
				if got := ask(addr, "x"); got != "first x" {
					t.Errorf("got %q", got)
				}
			}
			must(c.Carry("1", netip.MustParseAddr("127.0.0.7"), nil))
			if got := ask(at, "x"); got == "first x" {
				t.Error("it leads where it did before")
			}
			a.File.Close()
			b.File.Close()
			must(c.Drop("1"))
			if got := ask(at, "x"); !strings.Contains(got, "refused") {
				t.Errorf("got %q", got)
			}
			must(c.Keep([]string{"1", "2"}))
			if got := ask(bt, "y"); got != "first y" {
				t.Errorf("got %q", got)
			}
			must(c.Keep(nil))
			if got := ask(bt, "y"); !strings.Contains(got, "refused") {
				t.Errorf("got %q", got)
			}
		})
	}
}

// What is carried goes on without a client, and the next one has it; more sockets than a message has are sent in several.
func TestClientGoesOn(t *testing.T) {
	dir := t.TempDir()
	server := container(t, "it")
	c := newClient(t, dir, nil)
	var sockets []Socket
	var addrs []string
	for range maxFiles + 10 {
		s, addr := published(t, server.Port())
		sockets, addrs = append(sockets, s), append(addrs, addr)
	}
	if err := c.Carry("1", server.Addr(), sockets); err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, s := range sockets {
		s.File.Close()
	}
	if got := ask(addrs[0], "x"); got != "it x" {
		t.Errorf("got %q", got)
	}
	if got := ask(addrs[len(addrs)-1], "x"); got != "it x" {
		t.Errorf("got %q", got)
	}
	next := newClient(t, dir, nil)
	if err := next.Keep(nil); err != nil {
		t.Fatal(err)
	}
	if got := ask(addrs[0], "x"); !strings.Contains(got, "refused") {
		t.Errorf("got %q", got)
	}
	next.Close()
	if _, err := os.Stat(filepath.Join(dir, SocketName)); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// The end of the process is reported, and a call after it has another one.
func TestClientLost(t *testing.T) {
	lost := make(chan bool, 1)
	c := newClient(t, t.TempDir(), func(context.Context) { lost <- true })
	server := container(t, "it")
	a, at := published(t, server.Port())
	if err := c.Carry("1", server.Addr(), []Socket{a}); err != nil {
		t.Fatal(err)
	}
	for _, child := range childrenOf(t) {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	<-lost
	if err := c.Carry("1", server.Addr(), []Socket{a}); err != nil {
		t.Fatal(err)
	}
	if got := ask(at, "x"); got != "it x" {
		t.Errorf("got %q", got)
	}
	if err := c.Drop("1"); err != nil {
		t.Error(err)
	}
}

func childrenOf(t *testing.T) (out []int) {
	t.Helper()
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, l := range lists {
		b, _ := os.ReadFile(l)
		for f := range strings.FieldsSeq(string(b)) {
			var pid int
			if _, err := fmt.Sscan(f, &pid); err == nil {
				out = append(out, pid)
			}
		}
	}
	if len(out) == 0 {
		t.Skip("the kernel does not list children")
	}
	return out
}
