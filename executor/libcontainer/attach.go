//go:build cgo

package libcontainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// An Attachment is a detached mount that is to appear at a path of the private root, in the mount namespace of one
// sandbox only.
type Attachment struct {
	Mount *os.File `json:"-"`
	Path  string
}

// attachFD is where the socket with the attachments is in a new process: the first of libcontainer's ExtraFiles. It
// counts as one that the sandbox's process inherits, so Attach leaves a close-on-exec file there.
const attachFD = 3

// maxAttachments is what one message with descriptors can carry (SCM_MAX_FD less a few).
const maxAttachments = 240

// sendAttachments returns the end of a socket pair that the new process reads them from, and the other, from which
// awaitAttach reads how it went.
func sendAttachments(list []Attachment) (parent, child *os.File, err error) {
	if len(list) > maxAttachments {
		return nil, nil, fmt.Errorf("attaching %d mounts: more than %d", len(list), maxAttachments)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	parent, child = os.NewFile(uintptr(fds[0]), "attach"), os.NewFile(uintptr(fds[1]), "attach")
	body, err := json.Marshal(list)
	if err == nil {
		mounts := make([]int, len(list))
		for i, a := range list {
			mounts[i] = int(a.Mount.Fd())
		}
		err = unix.Sendmsg(fds[0], body, unix.UnixRights(mounts...), nil, 0)
	}
	if err != nil {
		parent.Close()
		child.Close()
		return nil, nil, fmt.Errorf("sending the mounts: %w", err)
	}
	return parent, child, nil
}

// awaitAttach returns what the new process reported: nil also if it died before it could, as libcontainer will then
// have an error of its own.
func awaitAttach(parent *os.File) error {
	msg, err := io.ReadAll(io.LimitReader(parent, 4096))
	if err != nil || len(msg) == 0 {
		return nil
	}
	return errors.New(string(msg))
}

// Attach is the first thing that the first process of a sandbox does, in its new namespaces: it puts its mounts into
// place. It ends the process if it can't.
func Attach() {
	sock := os.NewFile(attachFD, "attach")
	err := attach(attachFD)
	if err != nil {
		_, _ = sock.Write([]byte(err.Error()))
		os.Exit(1)
	}
	// Keep the number occupied until execve, so that nothing which is not close-on-exec can get it (CVE-2024-21626).
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Dup3(null, attachFD, unix.O_CLOEXEC)
		unix.Close(null)
	}
	if err != nil {
		os.Exit(1)
	}
}

func attach(sock int) error {
	body := make([]byte, 128<<10)
	oob := make([]byte, unix.CmsgSpace(4*maxAttachments))
	n, oobn, flags, _, err := unix.Recvmsg(sock, body, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return fmt.Errorf("receiving the mounts: %w", err)
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return errors.New("receiving the mounts: the message was cut off")
	}
	var list []Attachment
	if err := json.Unmarshal(body[:n], &list); err != nil {
		return fmt.Errorf("decoding the mounts: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return fmt.Errorf("receiving the mounts: %w", err)
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fmt.Errorf("receiving the mounts: %w", err)
		}
		fds = append(fds, got...)
	}
	if len(fds) != len(list) {
		return fmt.Errorf("receiving the mounts: %d descriptors for %d mounts", len(fds), len(list))
	}
	for i, a := range list {
		if err := unix.MoveMount(fds[i], "", unix.AT_FDCWD, a.Path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attaching a mount at %s: %w", a.Path, err)
		}
		unix.Close(fds[i])
	}
	return nil
}
