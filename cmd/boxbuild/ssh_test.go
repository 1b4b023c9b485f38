package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/session"
)

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }

// newKey returns a key and writes it to path, with a passphrase if there is one.
func newKey(t *testing.T, path, passphrase string) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "a comment", []byte(passphrase))
	} else {
		block, err = ssh.MarshalPrivateKey(key, "a comment")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return key
}

// listen serves every connection to path by serve, until the end of the test.
func listen(t *testing.T, path string, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// pipe is one end of a connection in memory. CloseWrite closes it, as what is tested has no more to say then.
type pipe struct{ net.Conn }

func (p pipe) CloseWrite() error { return p.Close() }

// connect opens a connection to o as the daemon does, until the end of the test.
func connect(t *testing.T, o *sshOffer) (conn net.Conn, ended <-chan error) {
	t.Helper()
	here, there := net.Pipe()
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); here.Close() })
	go func() { done <- o.serve(ctx, pipe{there}) }()
	return here, done
}

// TestAgents checks that what an offer has signed its key has signed, be the key in a file or in a real agent, and that
// whoever uses the offer cannot change the agent: it stays as it was.
func TestAgents(t *testing.T) {
	dir := t.TempDir()
	file, sock := filepath.Join(dir, "key"), filepath.Join(dir, "agent")
	key := newKey(t, file, "")
	real := agent.NewKeyring()
	if err := real.Add(agent.AddedKey{PrivateKey: key, Comment: "a comment"}); err != nil {
		t.Fatal(err)
	}
	listen(t, sock, func(c net.Conn) { _ = agent.ServeAgent(real, c) }) // the end of the connection
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	a := &app{env: environ(map[string]string{"SSH_AUTH_SOCK": sock})}
	offers, err := a.sshOffers(&buildOptions{context: ".", ssh: []string{"default", "file=" + file, "named=" + sock}})
	if err != nil {
		t.Fatal(err)
	}
	for id, o := range offers {
		conn, ended := connect(t, o)
		client := agent.NewClient(conn)
		list, err := client.List()
		if err != nil || len(list) != 1 || list[0].String() != (&agent.Key{Format: public.Type(), Blob: public.Marshal(), Comment: list[0].Comment}).String() {
			t.Errorf("%s has %v, %v", id, list, err)
		}
		sig, err := client.Sign(public, []byte("text"))
		if err != nil {
			t.Errorf("%s signs nothing: %v", id, err)
		} else if err := public.Verify([]byte("text"), sig); err != nil {
			t.Errorf("%s signs with another key: %v", id, err)
		}
		other, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		stranger, err := ssh.NewPublicKey(other)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Sign(stranger, []byte("text")); err == nil {
			t.Errorf("%s signs with a key that it does not have", id)
		}
		for what, err := range map[string]error{
			"add":       client.Add(agent.AddedKey{PrivateKey: key, LifetimeSecs: 1}),
			"remove":    client.Remove(public),
			"removeall": client.RemoveAll(),
			"lock":      client.Lock([]byte("x")),
			"unlock":    client.Unlock([]byte("x")),
		} {
			if err == nil {
				t.Errorf("%s lets a build %s", id, what)
			}
		}
		if _, err := client.Extension("session-bind@openssh.com", nil); err == nil {
			t.Errorf("%s lets a build reach extensions", id)
		}
		if list, err := client.List(); err != nil || len(list) != 1 {
			t.Errorf("%s has %v, %v in the end", id, list, err)
		}
		conn.Close()
		if err := <-ended; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s ends with %v", id, err)
		}
	}
}

// TestHostileRequests checks that requests that make no sense are refused and end at most their own connection.
func TestHostileRequests(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	newKey(t, file, "")
	offer, err := openSSH([]string{file}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ send, want string }{
		{"\x00\x00\x00\x01\x0d", "\x00\x00\x00\x01\x05"},                              // a request without anything to sign
		{"\x00\x00\x00\x06\x0d\xff\xff\xff\xff\x00", "\x00\x00\x00\x01\x05"},          // a key longer than the message
		{"\x00\x00\x00\x0d\x0d" + strings.Repeat("\x00", 12), "\x00\x00\x00\x01\x05"}, // an empty key
		{"\x00\x00\x00\x01\x63", "\x00\x00\x00\x01\x05"},                              // nothing that is known
		{"\x00\x00\x00\x00", ""},
		{"\xff\xff\xff\xff", ""},
	} {
		conn, ended := connect(t, offer)
		if _, err := conn.Write([]byte(tc.send)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(tc.want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != tc.want {
			t.Errorf("%q gets %q, %v, want %q", tc.send, got, err, tc.want)
		}
		if tc.want != "" {
			conn.Close()
		}
		if err := <-ended; tc.want == "" && err == nil {
			t.Errorf("%q is no error", tc.send)
		}
	}
}

// TestRaw checks that a raw socket gets every byte as it is, whatever it speaks.
func TestRaw(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	listen(t, sock, func(c net.Conn) {
		line := make([]byte, 4)
		if _, err := io.ReadFull(c, line); err == nil {
			_, _ = c.Write(append([]byte("got "), line...)) // the test reads it
		}
	})
	offer, err := openSSH([]string{sock}, true)
	if err != nil {
		t.Fatal(err)
	}
	conn, ended := connect(t, offer)
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "got ping" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestBadSSH checks the words for flags that cannot be, which are docker's, and that no word of a key is in them.
func TestBadSSH(t *testing.T) {
	t.Chdir(t.TempDir())
	newKey(t, "key", "")
	newKey(t, "locked", "passphrase")
	if err := os.WriteFile("text", []byte("no key, but SENTINEL"), 0o600); err != nil {
		t.Fatal(err)
	}
	listen(t, "sock", func(net.Conn) {})
	listen(t, "sock2", func(net.Conn) {})
	a := &app{env: environ(nil)}
	for _, tc := range []struct {
		flags []string
		want  string
	}{
		{[]string{"default"}, "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"},
		{[]string{"x=nosuch"}, "nosuch: no such file or directory"},
		{[]string{"x=sock,sock2"}, "only single socket allowed"},
		{[]string{"x=sock,key"}, "only single socket allowed"},
		{[]string{"x=key,sock"}, "invalid combination of keys and sockets"},
		{[]string{"x=key,raw=true"}, "raw mode only supported with socket paths"},
		{[]string{"x=raw=true"}, `raw mode must supply exactly one socket path for "x"`},
		{[]string{"x=sock,sock2,raw=true"}, `raw mode must supply exactly one socket path for "x"`},
		{[]string{"x=sock,raw=maybe"}, "invalid value for 'raw': maybe"},
		{[]string{"x=key", "x=sock"}, `duplicate agent ID "x"`},
		{[]string{"x=text"}, "failed to parse text: ssh: no key found"},
		{[]string{"x=locked"}, "failed to parse locked: the key has a passphrase"},
	} {
		_, err := a.sshOffers(&buildOptions{context: ".", ssh: tc.flags})
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "SENTINEL") {
			t.Errorf("%q: got %v, want %s", tc.flags, err, tc.want)
		}
	}
}

// TestGitOffersAgent checks that a build from a repository that is reached by SSH offers the user's agent by itself, and no
// other build does.
func TestGitOffersAgent(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	listen(t, sock, func(net.Conn) {})
	a := &app{env: environ(map[string]string{"SSH_AUTH_SOCK": sock})}
	for context, want := range map[string]int{
		".": 0, "https://example.com/r.git": 0, "git@example.com:r.git": 1, "ssh://git@example.com/r": 1,
	} {
		if offers, err := a.sshOffers(&buildOptions{context: context}); err != nil || len(offers) != want {
			t.Errorf("%s: %v, %v, want %d", context, offers, err, want)
		}
	}
}

var _ session.Conn = pipe{}
