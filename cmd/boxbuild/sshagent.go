package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/boxbuild/boxbuild/solver/session"
)

// Messages of the agent protocol (draft-miller-ssh-agent, section 5.1).
const (
	agentFailure           = 5
	agentRequestIdentities = 11
	agentIdentitiesAnswer  = 12
	agentSignRequest       = 13
	agentSignResponse      = 14
)

// maxAgentMessage is the longest message of the protocol, in bytes, as in OpenSSH.
const maxAgentMessage = 256 << 10

// An answerer answers requests for identities and for signatures, and sees no others.
type answerer interface {
	answer(request []byte) (reply []byte, err error)
}

// serveAgent lets the other side of conn list the identities of a and have things signed, and nothing else: what runs in
// a build cannot add, remove or lock keys, nor reach extensions. It returns nil when the other side has ended.
func serveAgent(conn session.Conn, a answerer) error {
	for {
		request, err := readAgentMessage(conn)
		if errors.Is(err, io.EOF) {
			return conn.CloseWrite()
		}
		if err != nil {
			return err
		}
		reply := []byte{agentFailure}
		if t := request[0]; t == agentRequestIdentities || t == agentSignRequest {
			if reply, err = a.answer(request); err != nil {
				return err
			}
		}
		if err := writeAgentMessage(conn, reply); err != nil {
			return err
		}
	}
}

// readAgentMessage returns io.EOF at an end between messages.
func readAgentMessage(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > maxAgentMessage {
		return nil, fmt.Errorf("a message of %d bytes is none of the agent protocol", n)
	}
	msg := make([]byte, n)
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return msg, nil
}

func writeAgentMessage(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...))
	return err
}

// A remoteAgent is a connection to a real agent, which has the last word.
type remoteAgent struct{ conn net.Conn }

func (r remoteAgent) answer(request []byte) ([]byte, error) {
	if err := writeAgentMessage(r.conn, request); err != nil {
		return nil, err
	}
	reply, err := readAgentMessage(r.conn)
	if err != nil {
		return nil, fmt.Errorf("reading from the agent: %w", err)
	}
	return reply, nil
}

// keys answer from keys in memory.
type keys struct{ ring agent.ExtendedAgent }

func (k keys) answer(request []byte) ([]byte, error) {
	if request[0] == agentRequestIdentities {
		return k.identities()
	}
	var sign struct {
		Key   []byte `sshtype:"13"`
		Data  []byte
		Flags uint32
	}
	if err := ssh.Unmarshal(request, &sign); err != nil {
		return []byte{agentFailure}, nil //nolint:nilerr // what makes no sense is refused, as by any agent
	}
	public, err := ssh.ParsePublicKey(sign.Key)
	if err != nil {
		return []byte{agentFailure}, nil //nolint:nilerr // likewise
	}
	sig, err := k.ring.SignWithFlags(public, sign.Data, agent.SignatureFlags(sign.Flags))
	if err != nil {
		return []byte{agentFailure}, nil //nolint:nilerr // a key that is not here, or an algorithm that it cannot do
	}
	return ssh.Marshal(struct {
		Signature []byte `sshtype:"14"`
	}{ssh.Marshal(sig)}), nil
}

func (k keys) identities() ([]byte, error) {
	list, err := k.ring.List()
	if err != nil {
		return nil, err
	}
	reply := binary.BigEndian.AppendUint32([]byte{agentIdentitiesAnswer}, uint32(len(list)))
	for _, key := range list {
		reply = append(reply, ssh.Marshal(struct {
			Blob    []byte
			Comment string
		}{key.Blob, key.Comment})...)
	}
	return reply, nil
}
