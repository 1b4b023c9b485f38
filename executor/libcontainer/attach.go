//go:build cgo

package libcontainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// An Attachment is a detached mount that is to appear at a path of the private root, in the mount namespace of one
// sandbox only.
type Attachment struct {
	Mount *os.File `json:"-"`
	Path  string
}

// A plan is what a new process has to do before libcontainer's code runs in it. Descriptors come with it, in the order
// of the fields.
type plan struct {
	Mounts []Attachment
	Filter bool // the compiled filter
	Files  bool // the command has a limit on open files: see keepFiles. No descriptor comes with it
	// Of spares only.
	Net    bool    // the network namespace to join
	Config bool    // the configuration, in place of the one that libcontainer sent
	Stdio  [3]bool // the standard streams that are not /dev/null
	// Places are where in Root the skeleton goes that the process has made; none if it is not wanted.
	Root   string
	Places []placement `json:",omitempty"`
	// Spare says that the process is one: it makes the Skeleton, if there is one, reports spareStaged, or spareReady, and waits
	// for its plan proper.
	Spare    bool
	Skeleton *skeleton `json:",omitempty"`
}

// descriptors is how many come with the plan.
func (p *plan) descriptors() int {
	n := len(p.Mounts)
	for _, with := range []bool{p.Filter, p.Net, p.Config, p.Stdio[0], p.Stdio[1], p.Stdio[2]} {
		if with {
			n++
		}
	}
	return n
}

// The messages of a process which waits for its plan: without a skeleton, and with it.
const (
	spareReady  = "ready"
	spareStaged = "staged"
)

// attachFD is where the socket with the attachments is in a new process: the first of libcontainer's ExtraFiles. It
// counts as one that the sandbox's process inherits, so Attach leaves a close-on-exec file there.
const attachFD = 3

// maxAttachments is what one message with descriptors can carry (SCM_MAX_FD less a few).
const maxAttachments = 240

// sendPlan returns the end of a socket pair that the new process reads its plan from, and the other, from which
// awaitAttach reads how it went.
func sendPlan(p *plan, filter *os.File) (parent, child *os.File, err error) {
	parent, child, err = planSocket()
	if err != nil {
		return nil, nil, err
	}
	var rest []*os.File
	if filter != nil {
		rest = append(rest, filter)
	}
	p.Filter = filter != nil
	if err := send(parent, p, rest); err != nil {
		parent.Close()
		child.Close()
		return nil, nil, err
	}
	return parent, child, nil
}

func planSocket() (parent, child *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "attach"), os.NewFile(uintptr(fds[1]), "attach"), nil
}

// send sends a plan with the descriptors of its mounts and the rest.
func send(sock *os.File, p *plan, rest []*os.File) error {
	if len(p.Mounts) > maxAttachments {
		return fmt.Errorf("attaching %d mounts: more than %d", len(p.Mounts), maxAttachments)
	}
	body, err := json.Marshal(p)
	if err == nil {
		rights := make([]int, 0, len(p.Mounts)+len(rest))
		for _, a := range p.Mounts {
			rights = append(rights, int(a.Mount.Fd()))
		}
		for _, f := range rest {
			rights = append(rights, int(f.Fd()))
		}
		err = unix.Sendmsg(int(sock.Fd()), body, unix.UnixRights(rights...), nil, 0)
	}
	if err != nil {
		return fmt.Errorf("sending the plan: %w", err)
	}
	return nil
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
	sk := p.Skeleton
	if err == nil && p.Spare {
		state := p.getReady()
		if err := awaitConfig(); err != nil {
			return err
		}
		if _, err := unix.Write(sock, []byte(state)); err != nil {
			return fmt.Errorf("reporting: %w", err)
		}
		p, fds, err = receivePlan(sock)
	}
	if err != nil {
		return fmt.Errorf("receiving the plan: %w", err)
	}
	next := func() int {
		fd := fds[0]
		fds = fds[1:]
		return fd
	}
	for _, a := range p.Mounts {
		fd := next()
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, a.Path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attaching a mount at %s: %w", a.Path, err)
		}
		unix.Close(fd)
	}
	if p.Filter {
		fd := next()
		if err := useFilter(fd); err != nil {
			return err
		}
		unix.Close(fd)
	}
	if err := p.takeOver(next); err != nil {
		return err
	}
	if len(p.Places) > 0 {
		if err := sk.finish(p.Root, p.Places); err != nil {
			return err
		}
	}
	if !p.Files {
		return nil
	}
	return keepFiles(!p.Config)
}

// getReady does what a spare can do before it knows what it will be.
func (p *plan) getReady() (state string) {
	warmUp()
	if p.Skeleton == nil || p.Skeleton.make() != nil {
		return spareReady // libcontainer will make it, or have an error that says more
	}
	return spareStaged
}

// takeOver makes a spare the process that the plan wants. next returns the plan's descriptors.
func (p *plan) takeOver(next func() int) error {
	if p.Net {
		fd := next()
		// Of this thread: the one that will execute the command.
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("joining the network namespace: %w", err)
		}
		unix.Close(fd)
	}
	if p.Config {
		if err := replaceConfig(next(), p.Files); err != nil {
			return err
		}
	}
	for i, with := range p.Stdio {
		if !with {
			continue
		}
		fd := next()
		if err := unix.Dup3(fd, i, 0); err != nil {
			return fmt.Errorf("taking over standard stream %d: %w", i, err)
		}
		unix.Close(fd)
	}
	return nil
}

// configFD is the descriptor that libcontainer's code reads the configuration from.
func configFD() (int, error) {
	fd, err := strconv.Atoi(os.Getenv("_LIBCONTAINER_INITPIPE"))
	if err != nil {
		return 0, fmt.Errorf("finding the configuration: %w", err)
	}
	return fd, nil
}

// awaitConfig waits until libcontainer has sent the configuration. From then on the parent waits for this process, and
// looks at none of its own state.
func awaitConfig() error {
	fd, err := configFD()
	if err != nil {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, -1)
		if n == 1 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for the configuration: %w", err)
		}
	}
}

// replaceConfig puts a file in the place of the configuration. With files, the command has a limit on open files. libcontainer's end of the socket stays open until execve,
// so that nothing which it sends is an error.
func replaceConfig(file int, files bool) error {
	fd, err := configFD()
	if err != nil {
		return err
	}
	above := attachFD + 1
	if files {
		above = highFD
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, above)
	if err == nil {
		err = unix.Dup3(file, fd, unix.O_CLOEXEC)
	}
	if err != nil {
		return fmt.Errorf("replacing the configuration: %w", err)
	}
	unix.Close(file)
	return nil
}

func receivePlan(sock int) (p plan, fds []int, err error) {
	body := make([]byte, 128<<10)
	oob := make([]byte, unix.CmsgSpace(4*(maxAttachments+6)))
	n, oobn, flags, _, err := unix.Recvmsg(sock, body, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return p, nil, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return p, nil, errors.New("it was cut off")
	}
	if n == 0 {
		return p, nil, io.EOF
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
	want := p.descriptors()
	if len(fds) != want {
		return p, nil, fmt.Errorf("%d descriptors instead of %d", len(fds), want)
	}
	return p, fds, nil
}
