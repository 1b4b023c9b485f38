package git

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/boxbuild/boxbuild/proto/git/gittest"
)

// sshKey makes a key.
func sshKey(t testing.TB) (ed25519.PrivateKey, ssh.Signer) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return private, signer
}

// serveSSH is a server that runs what whoever has the key asks for, until the test ends. It returns the address.
func serveSSH(t testing.TB, host ssh.Signer, key ssh.PublicKey) string {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(key.Marshal()) {
			return nil, fmt.Errorf("another key")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	return serve(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		conn, channels, requests, err := ssh.NewServerConn(c, config)
		if err != nil {
			return
		}
		defer conn.Close()
		go ssh.DiscardRequests(requests)
		for ch := range channels {
			session, requests, err := ch.Accept()
			if err != nil {
				return
			}
			for r := range requests {
				_ = r.Reply(r.Type == "exec", nil)
				if r.Type == "exec" {
					perform(session, r.Payload)
				}
			}
		}
	})
}

// perform runs the command that an exec request has.
func perform(session ssh.Channel, payload []byte) {
	defer session.Close()
	var exe struct{ Command string }
	if ssh.Unmarshal(payload, &exe) != nil {
		return
	}
	cmd := exec.Command("sh", "-c", exe.Command)
	cmd.Env = gittest.Environ()
	cmd.Stdout, cmd.Stderr = session, session.Stderr()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(stdin, session) // its end is the client's
		_ = stdin.Close()
	}()
	_ = cmd.Run()
	_, _ = session.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(cmd.ProcessState.ExitCode())}))
}

// serve accepts connections until the test ends.
func serve(t testing.TB, network, at string, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen(network, at)
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
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// TestSSHServer checks who is let in by a server, and which servers are spoken to: with known hosts those that are among
// them, without any.
func TestSSHServer(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("needs ssh")
	}
	private, key := sshKey(t)
	stranger, _ := sshKey(t)
	_, host := sshKey(t)
	_, otherHost := sshKey(t)
	addr := serveSSH(t, host, key.PublicKey())
	r := gittest.New(t)
	r.Write("f", "text")
	commit := r.Commit("one")
	url := "ssh://git@" + addr + r.Dir
	agentOf := func(keys ...ed25519.PrivateKey) string {
		ring := agent.NewKeyring()
		for _, k := range keys {
			if err := ring.Add(agent.AddedKey{PrivateKey: k}); err != nil {
				t.Fatal(err)
			}
		}
		return serve(t, "unix", filepath.Join(t.TempDir(), "s"), func(c net.Conn) { _ = agent.ServeAgent(ring, c) })
	}
	for name, tt := range map[string]struct {
		remote Remote
		err    string
	}{
		"any host":     {Remote{AgentSocket: agentOf(stranger, private)}, ""},
		"a known host": {Remote{AgentSocket: agentOf(private), KnownHosts: knownhosts.Line([]string{addr}, host.PublicKey()) + "\n"}, ""},
		"another host": {
			Remote{AgentSocket: agentOf(private), KnownHosts: knownhosts.Line([]string{addr}, otherHost.PublicKey()) + "\n"},
			"Host key verification failed",
		},
		"an unknown host": {
			Remote{AgentSocket: agentOf(private), KnownHosts: knownhosts.Line([]string{"host.example"}, host.PublicKey()) + "\n"},
			"Host key verification failed",
		},
		"another key": {Remote{AgentSocket: agentOf(stranger)}, "Permission denied (publickey)"},
		"no key":      {Remote{AgentSocket: agentOf()}, "Permission denied (publickey)"},
		"no agent":    {Remote{}, "Permission denied (publickey)"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t)
			tt.remote.URL = url
			var log strings.Builder
			ctx := WithLogger(t.Context(), func(p []byte) { log.Write(p) })
			got, err := c.Resolve(ctx, &Query{Remote: tt.remote, Ref: "main"})
			switch {
			case tt.err == "" && (err != nil || got.Commit != commit):
				t.Errorf("got %+v, %v; want %s", got, err, commit)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("got %v, want %s", err, tt.err)
			}
			if err != nil {
				log.WriteString(err.Error())
			}
			if strings.Contains(log.String(), "Permanently added") {
				t.Errorf("said %s", &log)
			}
		})
	}
}
