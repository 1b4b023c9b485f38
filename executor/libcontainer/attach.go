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

// A plan is what a new process has to do before libcontainer's code runs in it. The descriptors of the mounts come with
// it, then that of the compiled filter, if Filter is set.
type plan struct {
	Mounts []Attachment
	Filter bool
}

// attachFD is where the socket with the attachments is in a new process: the first of libcontainer's ExtraFiles. It
// counts as one that the sandbox's process inherits, so Attach leaves a close-on-exec file there.
const attachFD = 3

// maxAttachments is what one message with descriptors can carry (SCM_MAX_FD less a few).
const maxAttachments = 240

// sendPlan returns the end of a socket pair that the new process reads its plan from, and the other, from which
// awaitAttach reads how it went.
func sendPlan(list []Attachment, filter *os.File) (parent, child *os.File, err error) {
	if len(list) > maxAttachments {
		return nil, nil, fmt.Errorf("attaching %d mounts: more than %d", len(list), maxAttachments)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	parent, child = os.NewFile(uintptr(fds[0]), "attach"), os.NewFile(uintptr(fds[1]), "attach")
	body, err := json.Marshal(plan{Mounts: list, Filter: filter != nil})
	if err == nil {
		rights := make([]int, 0, len(list)+1)
		for _, a := range list {
			rights = append(rights, int(a.Mount.Fd()))
		}
		if filter != nil {
			rights = append(rights, int(filter.Fd()))
		}
		err = unix.Sendmsg(fds[0], body, unix.UnixRights(rights...), nil, 0)
	}
	if err != nil {
		parent.Close()
		child.Close()
		return nil, nil, fmt.Errorf("sending the plan: %w", err)
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

// prepare is the first thing that a new process does, in its new namespaces: it puts the mounts of a new sandbox into
// place, and maps the compiled filter. It ends the process if it can't.
func prepare() {
	sock := os.NewFile(attachFD, "attach")
	err := attach(attachFD)
	if err != nil {
		_, _ = sock.Write([]byte(err.Error()))
		os.Exit(1) //nolint:forbidigo // this is the child before execve: there is nobody to return to
	}
	// Keep the number occupied until execve, so that nothing which is not close-on-exec can get it (CVE-2024-21626).
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Dup3(null, attachFD, unix.O_CLOEXEC)
		unix.Close(null)
	}
	if err != nil {
		os.Exit(1) //nolint:forbidigo // as above
	}
}

func attach(sock int) error {
	p, fds, err := receivePlan(sock)
	if err != nil {
		return fmt.Errorf("receiving the plan: %w", err)
	}
	for i, a := range p.Mounts {
		if err := unix.MoveMount(fds[i], "", unix.AT_FDCWD, a.Path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attaching a mount at %s: %w", a.Path, err)
		}
	}
	if p.Filter {
		if err := useFilter(fds[len(fds)-1]); err != nil {
			return err
		}
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return nil
}

func receivePlan(sock int) (p plan, fds []int, err error) {
	body := make([]byte, 128<<10)
	oob := make([]byte, unix.CmsgSpace(4*(maxAttachments+1)))
	n, oobn, flags, _, err := unix.Recvmsg(sock, body, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return p, nil, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return p, nil, errors.New("it was cut off")
	}
	if err := json.Unmarshal(body[:n], &p); err != nil {
		return p, nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return p, nil, err
	}
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return p, nil, err
		}
		fds = append(fds, got...)
	}
	want := len(p.Mounts)
	if p.Filter {
		want++
	}
	if len(fds) != want {
		return p, nil, fmt.Errorf("%d descriptors instead of %d", len(fds), want)
	}
	return p, fds, nil
}
