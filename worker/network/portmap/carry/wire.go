package carry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker/network/names/away"
)

// The operations of the process. A daemon may talk to a process that an older one has started: fields and operations are
// only added, and an unknown operation is an error of that call.
const (
	opCarry = "carry"
	opDrop  = "drop"
	opKeep  = "keep"
	opNames = "names"
)

// A call goes to the process, with the descriptors of as many sockets as it has Ports.
type call struct {
	Op    string
	ID    string     `json:",omitempty"`
	To    netip.Addr `json:",omitzero"`
	Ports []uint16   `json:",omitempty"`
	IDs   []string   `json:",omitempty"` // of Keep, which has several calls if they are many
	More  bool       `json:",omitempty"` // another Keep follows, of which these are a part
	// Names is what opNames, which has a socket for datagrams and one that listens, has answered.
	Names *away.Config `json:",omitempty"`
}

// An answer comes back for each call.
type answer struct {
	Err string `json:",omitempty"`
}

const (
	// maxFiles is how many descriptors a message has; the kernel's limit is 253.
	maxFiles = 250
	// maxIDs is how many IDs a message has.
	maxIDs = 400
	// maxMessage bounds a message, in bytes.
	maxMessage = 64 << 10
)

// send sends a message in one piece.
func send(c *net.UnixConn, v any, files []*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			// Fd would have the socket block, in the process as well.
			rc, err := f.SyscallConn()
			if err == nil {
				err = rc.Control(func(fd uintptr) { fds[i] = int(fd) })
			}
			if err != nil {
				return err
			}
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

// recv receives a message. The files are the caller's.
func recv(c *net.UnixConn, v any) (files []*os.File, err error) {
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*(maxFiles+3)))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	messages, perr := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "socket"))
		}
	}
	switch {
	case perr != nil:
		err = perr
	case n == 0:
		err = io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("a message is too long")
	default:
		err = json.Unmarshal(buf[:n], v)
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// answerOf carries out a call on t. keep collects the IDs of a Keep in parts.
func answerOf(t *Table, in *call, files []*os.File, keep *[]string) answer {
	err := func() error {
		switch in.Op {
		case opCarry:
			if len(in.Ports) != len(files) || !in.To.IsValid() {
				return fmt.Errorf("%d sockets for %d ports at %s", len(files), len(in.Ports), in.To)
			}
			sockets := make([]Socket, len(files))
			for i, f := range files {
				sockets[i] = Socket{File: f, Port: in.Ports[i]}
			}
			return t.Carry(in.ID, in.To, sockets)
		case opNames:
			if in.Names == nil || len(files) != 2 {
				return fmt.Errorf("%d sockets for names", len(files))
			}
			return t.answerLater(in.ID, *in.Names, files[0], files[1])
		case opDrop:
			return t.Drop(in.ID)
		case opKeep:
			*keep = append(*keep, in.IDs...)
			if in.More {
				return nil
			}
			ids := *keep
			*keep = nil
			return t.Keep(ids)
		}
		return fmt.Errorf("operation %q: unknown to this process", in.Op)
	}()
	if err != nil {
		return answer{Err: err.Error()}
	}
	return answer{}
}
