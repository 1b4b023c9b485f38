package bridge

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	pb "github.com/moby/buildkit/frontend/gateway/pb"
	opspb "github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/boxbuild/boxbuild/frontend"
)

// A box is a container whose processes do what their arguments say: "say WORDS" writes as many words, "wait" ends with the
// container, "refused" cannot be started. None starts before the gate is open.
type box struct {
	frontend.Container
	gate    chan struct{}
	closed  chan struct{}
	once    sync.Once
	started []string
	c       *conversation
}

func newBox() *box { return &box{gate: make(chan struct{}), closed: make(chan struct{})} }

func (b *box) Start(_ context.Context, p *frontend.ProcessSpec) (frontend.Process, error) {
	select {
	case <-b.gate:
	case <-b.closed:
		return nil, errors.New("released")
	}
	b.started = append(b.started, strings.Join(p.Args, " "))
	if p.Args[0] == "refused" {
		return nil, errors.New("no such thing is allowed")
	}
	r := &boxed{ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		for _, word := range p.Args[1:] {
			if _, err := io.WriteString(p.Stdout, word); err != nil {
				return
			}
		}
		if p.Args[0] == "wait" {
			<-b.closed
			r.code = 137
		}
	}()
	return r, nil
}

func (b *box) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

type boxed struct {
	ended chan struct{}
	code  int
}

func (r *boxed) Wait(context.Context) (int, error) { <-r.ended; return r.code, nil }
func (r *boxed) Signal(syscall.Signal) error       { return nil }
func (r *boxed) Resize(uint16, uint16) error       { return nil }

// A stream is the other side of ExecProcess. It takes a message when the test wants one.
type stream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // the call's
	in  chan *pb.ExecMessage
	out chan *pb.ExecMessage
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Recv() (*pb.ExecMessage, error) {
	if m, ok := <-s.in; ok {
		return m, nil
	}
	return nil, io.EOF
}

func (s *stream) Send(m *pb.ExecMessage) error {
	s.out <- m
	return nil
}

// asks for a process.
func (s *stream) asks(id, args string) {
	s.in <- &pb.ExecMessage{ProcessID: id, Input: &pb.ExecMessage_Init{
		Init: &pb.InitMessage{ContainerID: "c", Fds: []uint32{1}, Meta: &opspb.Meta{Args: strings.Fields(args)}},
	}}
}

// next returns the next message in short.
func (s *stream) next() string {
	m := <-s.out
	text := m.GetProcessID() + " "
	switch in := m.GetInput().(type) {
	case *pb.ExecMessage_Started:
		return text + "started"
	case *pb.ExecMessage_File:
		if in.File.GetEOF() {
			return text + "EOF"
		}
		return text + string(in.File.GetData())
	case *pb.ExecMessage_Exit:
		return text + strings.TrimSpace("exit "+codes.Code(in.Exit.GetError().GetCode()).String()+" "+in.Exit.GetError().GetMessage())
	case *pb.ExecMessage_Done:
		return text + "done"
	}
	return text + "?"
}

// execs opens a stream for a conversation with a container, until end is called.
func execs(t *testing.T, b *box) (s *stream, end func()) {
	t.Helper()
	c := talk(t, &env{})
	b.c = c
	c.containers["c"] = &container{Container: b, cancel: func(error) {}}
	s = &stream{ctx: t.Context(), in: make(chan *pb.ExecMessage), out: make(chan *pb.ExecMessage)}
	ended := make(chan error, 1)
	go func() { ended <- c.ExecProcess(s) }()
	return s, func() {
		close(s.in)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func (s *stream) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := s.next(); got != w {
			t.Errorf("got %q, want %q", got, w)
		}
	}
}

// TestStartedFirst checks that a process that is asked for is told of at once: before it has been started, and before what
// others have to say that have not been heard yet.
func TestStartedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox()
		s, end := execs(t, b)
		defer end()
		s.asks("1", "say a b")
		s.expect(t, "1 started")
		s.asks("2", "say c")
		s.expect(t, "2 started")
		close(b.gate)
		synctest.Wait() // both want to be heard
		s.asks("3", "say d")
		synctest.Wait()
		first := s.next() // was under way already
		if got := s.next(); got != "3 started" {
			t.Errorf("got %q after %q", got, first)
		}
		got := map[string]string{}
		add := func(m string) { got[m[:1]] += m[1:] }
		add(first)
		for range 3*3 + 4 - 1 {
			add(s.next())
		}
		for id, said := range map[string]string{"1": " a b", "2": " c", "3": " d"} {
			if want := said + " EOF exit OK done"; got[id] != want {
				t.Errorf("process %s: got %q, want %q", id, got[id], want)
			}
		}
		if list := strings.Join(b.started, ", "); list != "say a b, say c, say d" {
			t.Errorf("started were %s", list) // the first one is what a container lives by
		}
	})
}

// TestRefusedProcess checks that the other side gets to know why a process could not be started. In what is no container
// none is said to have started.
func TestRefusedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox()
		close(b.gate)
		s, end := execs(t, b)
		defer end()
		s.asks("1", "refused")
		s.expect(t, "1 started", "1 EOF", "1 exit Unknown no such thing is allowed", "1 done")
		s.asks("1", "say a")
		s.expect(t, "1 started", "1 a", "1 EOF", "1 exit OK", "1 done")
		delete(b.c.containers, "c")
		s.asks("2", "say a")
		s.expect(t, `2 exit NotFound container "c" previously released or not created`)
	})
}

// TestReleasedProcess checks that a process that its container took along is told from one that has ended by itself with the
// same code, whether it ran yet or not.
func TestReleasedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, running := range []bool{true, false} {
			b := newBox()
			s, end := execs(t, b)
			want := "1 exit Canceled released: context canceled"
			if running {
				want = "1 exit Canceled exit code: 137: context canceled"
				close(b.gate)
			}
			s.asks("1", "wait")
			s.expect(t, "1 started")
			synctest.Wait()
			if err := b.c.containers["c"].close(); err != nil {
				t.Error(err)
			}
			s.expect(t, "1 EOF", want, "1 done")
			end()
		}
	})
}
