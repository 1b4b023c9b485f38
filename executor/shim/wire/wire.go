// Package wire is the protocol between the daemon and its boxshim processes: framed messages with file descriptors.
//
// The two ends hold a socketpair(2) of type SOCK_STREAM that the daemon made before it started the shim, so nobody else
// can connect and there is no socket in a file system or in the abstract name space to find (CVE-2020-15257). A frame is
//
//	magic 'b','x'  version  count of descriptors  length of the body, 32 bits, big-endian  body
//
// with a JSON body, and the descriptors travel as SCM_RIGHTS with the frame's header. Descriptors arrive close-on-exec.
// Frames in one direction are ordered; requests and replies are matched by ID, so that any number of sandboxes start,
// run and end at once on one connection. Both ends come from the same build: a frame with another version ends the
// connection.
//
// A Conn may be read by one goroutine and written by any number. Its only lock serialises writers, and is held while a
// frame is written: the peer always reads.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// Version is raised by every change of the frames or messages.
	Version = 1
	// KeeperVersion is that of connections to keepers, which outlive the program that started them: it stays.
	KeeperVersion = 100
	// MaxFiles is how many descriptors a message can carry; the kernel's own limit is 253.
	MaxFiles = 240
	// MaxBody bounds the body of a frame, in bytes.
	MaxBody = 16 << 20

	headerLen = 8
)

// A Conn is one end of a connection.
type Conn struct {
	c       *net.UnixConn
	version byte
	mu      sync.Mutex // serialises writers
}

// Pair returns the two ends of a new connection: one to use, one to be inherited by a child.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	child := os.NewFile(uintptr(fds[1]), "shim")
	conn, err := FromFile(os.NewFile(uintptr(fds[0]), "shim"))
	if err != nil {
		child.Close()
		return nil, nil, err
	}
	return conn, child, nil
}

// FromFile makes a Conn of a socket and closes f.
func FromFile(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("using descriptor %d as a socket: %w", f.Fd(), err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("using a socket: it is not a Unix socket")
	}
	return &Conn{c: u, version: Version}, nil
}

// ToKeeper makes a Conn to or in a keeper.
func ToKeeper(c *net.UnixConn) *Conn { return &Conn{c: c, version: KeeperVersion} }

// Keeper makes c one to or in a keeper. It is called before anything is sent or received.
func (c *Conn) Keeper() *Conn {
	c.version = KeeperVersion
	return c
}

// Close closes the connection. A blocked Recv returns.
func (c *Conn) Close() error { return c.c.Close() }

// Send writes one message with the descriptors of files, which stay the caller's.
func (c *Conn) Send(msg any, files []*os.File) error {
	body, err := json.Marshal(msg)
	if err != nil {
		return fmt.Errorf("encoding a message: %w", err)
	}
	if len(body) > MaxBody {
		return fmt.Errorf("sending a message: %d bytes exceed the limit of %d", len(body), MaxBody)
	}
	if len(files) > MaxFiles {
		return fmt.Errorf("sending a message: %d descriptors exceed the limit of %d", len(files), MaxFiles)
	}
	frame := make([]byte, headerLen, headerLen+len(body))
	frame[0], frame[1], frame[2], frame[3] = 'b', 'x', c.version, byte(len(files))
	binary.BigEndian.PutUint32(frame[4:], uint32(len(body)))
	frame = append(frame, body...)

	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			rc, err := f.SyscallConn()
			if err != nil {
				return fmt.Errorf("sending descriptor of %s: %w", f.Name(), err)
			}
			// Fd would put a pipe into blocking mode; the descriptor stays open as the caller holds f.
			if err := rc.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
				return fmt.Errorf("sending descriptor of %s: %w", f.Name(), err)
			}
		}
		oob = unix.UnixRights(fds...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n, _, err := c.c.WriteMsgUnix(frame, oob, nil)
	if err == nil && n < len(frame) {
		_, err = c.c.Write(frame[n:])
	}
	if err != nil {
		return fmt.Errorf("sending a message: %w", err)
	}
	return nil
}

// Recv reads the next message into msg and returns its descriptors, which are the caller's to close. It returns io.EOF
// when the peer has gone between two messages. After any other error the connection is of no more use.
func (c *Conn) Recv(msg any) ([]*os.File, error) {
	var head [headerLen]byte
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(head[:], oob)
	files, ferr := parseRights(oob[:oobn])
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil && ferr != nil {
		err = ferr
	}
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("some descriptors were lost")
	}
	if err == nil && n < headerLen {
		_, err = io.ReadFull(c.c, head[n:])
	}
	if err == nil {
		err = c.body(head, len(files), msg)
	}
	if err != nil {
		CloseAll(files)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("receiving a message: %w", err)
	}
	return files, nil
}

func (c *Conn) body(head [headerLen]byte, files int, msg any) error {
	length, err := parseHeader(head, files, c.version)
	if err != nil {
		return err
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.c, body); err != nil {
		return err
	}
	return json.Unmarshal(body, msg)
}

// parseHeader checks a header that came with so many descriptors and returns the body's length.
func parseHeader(head [headerLen]byte, files int, version byte) (int, error) {
	if head[0] != 'b' || head[1] != 'x' {
		return 0, fmt.Errorf("bytes %q do not begin a frame", head[:2])
	}
	if head[2] != version {
		return 0, fmt.Errorf("the peer speaks version %d, this program %d", head[2], version)
	}
	if int(head[3]) != files {
		return 0, fmt.Errorf("%d descriptors arrived where %d were announced", files, head[3])
	}
	length := binary.BigEndian.Uint32(head[4:])
	if length > MaxBody {
		return 0, fmt.Errorf("%d bytes exceed the limit of %d", length, MaxBody)
	}
	return int(length), nil
}

func parseRights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	// net reads with MSG_CMSG_CLOEXEC, so no descriptor slips into a process that another goroutine starts.
	var files []*os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// CloseAll closes every file.
func CloseAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
