package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/boxbuild/boxbuild/solver/session"
)

// dialTimeout is how long an agent of this machine may take to accept a connection.
const dialTimeout = 2 * time.Second

// maxKeyFile bounds the file of a private key, in bytes.
const maxKeyFile = 100 << 10

// An sshOffer is an agent, or another socket, that --ssh offers to the build. Either socket or keys is set.
type sshOffer struct {
	socket string
	raw    bool                // the bytes of the socket as they are; else it speaks the protocol of agents
	keys   agent.ExtendedAgent // made of files; lives only in this process
}

// sshOffers are what --ssh offers, by ID.
type sshOffers map[string]*sshOffer

// sshOffers reads --ssh: ID[=SOCKET|KEY[,KEY]…][,raw=BOOL]. An ID alone is the user's own agent. A build from a
// repository that is reached by SSH offers that one without being told to.
func (a *app) sshOffers(opt *buildOptions) (sshOffers, error) {
	flags := slices.DeleteFunc(slices.Clone(opt.ssh), func(f string) bool { return f == "" })
	if len(flags) == 0 && isGitSSH(opt.context) {
		flags = []string{"default"}
	}
	offers := make(sshOffers, len(flags))
	for _, f := range flags {
		id, paths, raw, err := parseSSH(f)
		if err != nil {
			return nil, usagef("invalid argument %q for \"--ssh\" flag: %v", f, err)
		}
		if offers[id] != nil {
			return nil, usagef("invalid argument %q for \"--ssh\" flag: duplicate agent ID %q", f, id)
		}
		if len(paths) == 0 || len(paths) == 1 && paths[0] == "" {
			paths = []string{a.env.Getenv("SSH_AUTH_SOCK")}
			if paths[0] == "" {
				return nil, errors.New("ERROR: failed to build: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
			}
		}
		if offers[id], err = openSSH(paths, raw); err != nil {
			return nil, fmt.Errorf("ERROR: failed to build: failed to convert agent config for ID: %q: %w", id, err)
		}
	}
	return offers, nil
}

// isGitSSH says whether context is a repository that is reached by SSH.
func isGitSSH(context string) bool {
	return strings.HasPrefix(context, "git@") || strings.HasPrefix(context, "ssh://")
}

func parseSSH(flag string) (id string, paths []string, raw bool, err error) {
	id, list, ok := strings.Cut(flag, "=")
	if id == "" {
		id = "default"
	}
	if ok {
		for p := range strings.SplitSeq(list, ",") {
			if v, isRaw := strings.CutPrefix(p, "raw="); isRaw {
				if raw, err = strconv.ParseBool(v); err != nil {
					return "", nil, false, fmt.Errorf("invalid value for 'raw': %s", v)
				}
				continue
			}
			paths = append(paths, p)
		}
	}
	if raw && len(paths) != 1 {
		return "", nil, false, fmt.Errorf("raw mode must supply exactly one socket path for %q", id)
	}
	return id, paths, raw, nil
}

// openSSH looks at what paths are: one socket, or private keys, which it reads.
func openSSH(paths []string, raw bool) (*sshOffer, error) {
	var offer sshOffer
	for _, p := range paths {
		if offer.socket != "" {
			return nil, errors.New("only single socket allowed")
		}
		st, err := os.Stat(p)
		switch {
		case err != nil:
			return nil, err
		case st.Mode()&os.ModeSocket != 0 && offer.keys != nil:
			return nil, errors.New("invalid combination of keys and sockets")
		case st.Mode()&os.ModeSocket != 0:
			offer.socket, offer.raw = p, raw
			continue
		case raw:
			return nil, errors.New("raw mode only supported with socket paths")
		}
		key, err := readKey(p)
		if err != nil {
			return nil, err
		}
		if offer.keys == nil {
			offer.keys, _ = agent.NewKeyring().(agent.ExtendedAgent)
		}
		if err := offer.keys.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			return nil, fmt.Errorf("failed to add %s to agent: %w", p, err)
		}
	}
	return &offer, nil
}

// readKey reads a private key. An error never quotes the file.
func readKey(path string) (any, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("failed to read %s: %w", path, err)
	}
	key, err := ssh.ParseRawPrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, fmt.Errorf("failed to parse %s: the key has a passphrase; add it to ssh-agent and offer that", path)
	case err != nil:
		return nil, fmt.Errorf("failed to parse %s: %w", path, err)
	}
	return key, nil
}

// serve serves one connection of the build until it ends. It closes conn.
func (o *sshOffer) serve(ctx context.Context, conn session.Conn) error {
	if o.keys != nil {
		defer conn.Close()
		return serveAgent(conn, keys{o.keys})
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialer := net.Dialer{Timeout: dialTimeout}
	c, err := dialer.DialContext(ctx, "unix", o.socket)
	if err != nil {
		return fmt.Errorf("failed to connect to %s: %w", o.socket, err)
	}
	defer c.Close()
	if o.raw {
		socket, ok := c.(*net.UnixConn)
		if !ok {
			return fmt.Errorf("%s is not a Unix socket", o.socket)
		}
		session.Join(ctx, socket, conn)
		return nil
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })() // ends what waits for an agent that does not answer
	return serveAgent(conn, remoteAgent{c})
}
