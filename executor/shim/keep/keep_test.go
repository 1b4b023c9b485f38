package keep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxbuild/boxbuild/executor"
)

// A fake is a process that says and hears what the test wants.
type fake struct {
	in                *io.PipeReader
	inW               *io.PipeWriter
	out               *io.PipeReader
	say               *io.PipeWriter
	released, drained chan struct{}
	end               chan executor.Exit
	refuse            error // what Release returns
	sizes             chan [2]uint16
}

func newFake() *fake {
	f := &fake{
		released: make(chan struct{}), drained: make(chan struct{}), end: make(chan executor.Exit, 1), sizes: make(chan [2]uint16, 8),
	}
	f.in, f.inW = io.Pipe()
	f.out, f.say = io.Pipe()
	return f
}

func (f *fake) Release() error {
	if f.refuse == nil {
		close(f.released)
	}
	return f.refuse
}
func (f *fake) Stdin() io.WriteCloser { return f.inW }
func (f *fake) Stdout() io.Reader     { return f.out }
func (f *fake) Stderr() io.Reader     { return nil }
func (f *fake) Drain() {
	f.say.Close()
	close(f.drained)
}
func (f *fake) Close() { f.in.Close() }
func (f *fake) Resize(rows, cols uint16) error {
	f.sizes <- [2]uint16{rows, cols}
	return nil
}

func (f *fake) Signal(sig syscall.Signal) error {
	if sig == syscall.SIGKILL {
		select {
		case f.end <- executor.Exit{Code: 137, Signal: sig}:
		default:
		}
	}
	return nil
}
func (f *fake) Wait() executor.Exit { return <-f.end }
func (f *fake) Pid() int            { return 42 }

// A peer is the other end of an attachment.
type peer struct {
	r      *io.PipeReader
	w      *io.PipeWriter
	closed chan struct{}
	mine   keeperEnd
}

type keeperEnd struct {
	r *io.PipeReader
	w *io.PipeWriter
	p *peer
}

func newPeer() *peer {
	p := &peer{closed: make(chan struct{})}
	ar, aw := io.Pipe()
	br, bw := io.Pipe()
	p.r, p.w = ar, bw
	p.mine = keeperEnd{r: br, w: aw, p: p}
	return p
}

func (p *peer) close() {
	close(p.closed)
	p.r.Close()
	p.w.Close()
}
func (e keeperEnd) Read(b []byte) (int, error)  { return e.r.Read(b) }
func (e keeperEnd) Write(b []byte) (int, error) { return e.w.Write(b) }
func (e keeperEnd) Close() error                { return errors.Join(e.r.Close(), e.w.Close()) }
func (e keeperEnd) Open() bool {
	select {
	case <-e.p.closed:
		return false
	default:
		return true
	}
}

// A memory is a Sink.
type memory struct {
	mu     sync.Mutex
	b      bytes.Buffer
	closed bool
}

func (m *memory) Write(_ int, p []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.b.Write(p)
}

func (m *memory) Close() error {
	m.closed = true
	return nil
}

var both = executor.Streams{Stdin: true, Stdout: true, Stderr: true}

func begin(t *testing.T, opts Options, desc *Process) (*Keeper, *fake) {
	t.Helper()
	f := newFake()
	desc.Start = func() (Running, error) { return f, nil }
	k := New(opts)
	if err := k.Add("", desc); err != nil {
		t.Fatal(err)
	}
	return k, f
}

// What a peer says is read to the end though it does not read any more what the process says; with StdinOnce that is then the
// end of the input.
func TestHearOut(t *testing.T) {
	k, f := begin(t, Options{Stall: time.Minute}, &Process{OpenStdin: true, StdinOnce: true})
	p := newPeer()
	if err := k.Attach("", both, p.mine); err != nil {
		t.Fatal(err)
	}
	if err := k.Run(""); err != nil {
		t.Fatal(err)
	}
	p.r.Close()
	for range 2 { // the first finds that nobody reads
		if _, err := io.WriteString(f.say, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	heard := make(chan string)
	go func() {
		b, _ := io.ReadAll(f.in)
		heard <- string(b)
	}()
	for _, part := range []string{"one ", "two"} {
		if _, err := io.WriteString(p.w, part); err != nil {
			t.Error(err)
		}
	}
	p.close()
	if got := <-heard; got != "one two" {
		t.Errorf("the process read %q", got)
	}
	f.end <- executor.Exit{}
	if _, err := k.Wait(t.Context(), ""); err != nil {
		t.Error(err)
	}
}

// Without StdinOnce the end of a peer's input is the end of its attachment, and the next one's input goes on.
func TestInputGoesOn(t *testing.T) {
	k, f := begin(t, Options{Stall: time.Minute}, &Process{OpenStdin: true})
	if err := k.Run(""); err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{"one", "two"} {
		p := newPeer()
		if err := k.Attach("", both, p.mine); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = io.WriteString(p.w, in)
			p.w.Close()
		}()
		got := make([]byte, len(in))
		if _, err := io.ReadFull(f.in, got); err != nil || string(got) != in {
			t.Fatalf("the process read %q, %v", got, err)
		}
		if b, err := io.ReadAll(p.r); err != nil || len(b) > 0 {
			t.Errorf("the peer read %q, %v", b, err)
		}
	}
	f.end <- executor.Exit{}
	if _, err := k.Wait(t.Context(), ""); err != nil {
		t.Error(err)
	}
}

// An attachment that reads nothing holds up the process for Stall once, and not again; what it then reads is whole frames,
// and the log and other attachments have all.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(memory)
		k, f := begin(t, Options{Log: log}, &Process{})
		stuck, reads := newPeer(), newPeer()
		for _, p := range []*peer{stuck, reads} {
			if err := k.Attach("", both, p.mine); err != nil {
				t.Fatal(err)
			}
		}
		if err := k.Run(""); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(&got, reads.r) })
		begun := time.Now()
		const chunks = 100
		for range chunks {
			if _, err := f.say.Write(make([]byte, chunkSize)); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(begun); d != 10*time.Second {
			t.Errorf("the process was held up for %v", d)
		}
		f.end <- executor.Exit{Code: 3}
		if exit, err := k.Wait(t.Context(), ""); err != nil || exit.Code != 3 {
			t.Errorf("exit is %+v, %v", exit, err)
		}
		wg.Wait()
		if got.Len() != chunks*(chunkSize+frameLen) || log.b.Len() != chunks*chunkSize || !log.closed {
			t.Errorf("the other attachment has %d bytes, the log %d", got.Len(), log.b.Len())
		}
		late, _ := io.ReadAll(stuck.r)
		if n := len(late); n%(chunkSize+frameLen) != 0 || n == 0 || n > 2*maxBacklog {
			t.Errorf("what was stuck has %d bytes", n)
		}
		stuck.close()
		reads.close()
		k.Flush()
	})
}

// Whoever reads slowly, but reads, gets everything.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, f := begin(t, Options{}, &Process{Terminal: true})
		p := newPeer()
		if err := k.Attach("", both, p.mine); err != nil {
			t.Fatal(err)
		}
		if err := k.Run(""); err != nil {
			t.Fatal(err)
		}
		const chunks = 40
		go func() {
			for range chunks {
				_, _ = f.say.Write(make([]byte, chunkSize))
			}
			f.end <- executor.Exit{}
		}()
		total := 0
		b := make([]byte, chunkSize)
		for {
			n, err := p.r.Read(b)
			total += n
			if err != nil {
				break
			}
			time.Sleep(9 * time.Second)
		}
		if total != chunks*chunkSize {
			t.Errorf("%d bytes, want %d", total, chunks*chunkSize)
		}
		p.close()
		k.Flush()
	})
}

// After the end, an attachment that reads nothing is given up, so that the keeper can end.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, f := begin(t, Options{}, &Process{})
		p := newPeer()
		if err := k.Attach("", both, p.mine); err != nil {
			t.Fatal(err)
		}
		if err := k.Run(""); err != nil {
			t.Fatal(err)
		}
		if _, err := f.say.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		k.Kill()
		if d := time.Since(begun); d != 0 {
			t.Errorf("the end took %v", d)
		}
		k.Flush()
		if d := time.Since(begun); d != 10*time.Second {
			t.Errorf("the keeper waited for %v", d)
		}
		p.close()
	})
}

// Only what ran is recorded, once, and before anybody learns of it.
func TestRecord(t *testing.T) {
	for _, ran := range []bool{true, false} {
		var records []executor.Exit
		k, f := begin(t, Options{Record: func(e executor.Exit) { records = append(records, e) }}, &Process{})
		if err := k.Prepare(""); err != nil {
			t.Fatal(err)
		}
		if ran {
			if err := k.Run(""); err != nil {
				t.Fatal(err)
			}
			f.end <- executor.Exit{Code: 5}
			if exit, err := k.Wait(t.Context(), ""); err != nil || exit.Code != 5 || len(records) != 1 {
				t.Errorf("exit is %+v, %v; records are %v", exit, err, records)
			}
		}
		k.Kill()
		k.Flush()
		if want := map[bool]int{true: 1, false: 0}[ran]; len(records) != want {
			t.Errorf("ran %v: records are %v", ran, records)
		}
		if _, err := k.Wait(t.Context(), ""); ran != (err == nil) {
			t.Errorf("ran %v: Wait returns %v", ran, err)
		}
	}
}

// An error of the start that is no StartError is Prepare's; a StartError is for Run, before which one can be attached.
func TestStartErrors(t *testing.T) {
	plain, start := errors.New("plain"), &executor.StartError{Path: "/x", Code: 127, Err: fs.ErrNotExist}
	for i, want := range []error{plain, start} {
		k := New(Options{})
		if err := k.Add("", &Process{Start: func() (Running, error) { return nil, want }}); err != nil {
			t.Fatal(err)
		}
		err := k.Prepare("")
		if i == 0 {
			if !errors.Is(err, plain) {
				t.Errorf("Prepare: %v", err)
			}
			<-k.Ended()
			continue
		}
		p := newPeer()
		if err != nil {
			t.Errorf("Prepare: %v", err)
		}
		if err := k.Attach("", both, p.mine); err != nil {
			t.Errorf("Attach: %v", err)
		}
		if err := k.Run(""); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Run: %v", err)
		}
		if b, err := io.ReadAll(p.r); err != nil || len(b) > 0 {
			t.Errorf("the attachment has %q, %v", b, err)
		}
		<-k.Ended()
		p.close()
		k.Flush()
	}
}

// A command that is refused at the last moment is an error of Run, and the process has ended without a record.
func TestRefused(t *testing.T) {
	k, f := begin(t, Options{Record: func(executor.Exit) { t.Error("recorded") }}, &Process{})
	f.refuse = errors.New("refused")
	if err := k.Run(""); !errors.Is(err, f.refuse) {
		t.Errorf("Run: %v", err)
	}
	<-k.Ended()
	if err := k.Run(""); err == nil {
		t.Error("Run succeeded the second time")
	}
	k.Flush()
}

// A size that is set before the process is made is that of its terminal.
func TestResize(t *testing.T) {
	k, f := begin(t, Options{}, &Process{Terminal: true, Rows: 24, Cols: 80})
	if err := k.Resize("", 30, 100); err != nil {
		t.Fatal(err)
	}
	if err := k.Run(""); err != nil {
		t.Fatal(err)
	}
	if got := <-f.sizes; got != [2]uint16{30, 100} {
		t.Errorf("size is %v", got)
	}
	k.Kill()
	k.Flush()
	if err := k.Resize("", 1, 1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("after the end: %v", err)
	}
}

// Of the processes that have ended, so many are remembered; those that have not are never forgotten.
func TestForget(t *testing.T) {
	k, _ := begin(t, Options{}, &Process{})
	if err := k.Run(""); err != nil {
		t.Fatal(err)
	}
	if err := k.Add("waits", &Process{}); err != nil {
		t.Fatal(err)
	}
	const more = 10
	for i := range maxEnded + more {
		id := fmt.Sprint(i)
		f := newFake()
		f.end <- executor.Exit{Code: i % 200}
		if err := k.Add(id, &Process{Start: func() (Running, error) { return f, nil }}); err != nil {
			t.Fatal(err)
		}
		if err := k.Run(id); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		if _, err := k.Wait(context.Background(), id); err != nil && !errors.Is(err, executor.ErrNotRunning) {
			t.Fatal(err)
		}
	}
	k.Kill()
	k.Flush()
	if n := len(k.List()); n > maxEnded+2 || n < maxEnded {
		t.Errorf("%d processes are remembered", n)
	}
	if _, err := k.Wait(t.Context(), "0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the oldest: %v", err)
	}
}

// However the calls of several daemons fall, a process runs once, and everybody learns of one end.
func TestConcurrent(t *testing.T) {
	for range 50 {
		k, f := begin(t, Options{}, &Process{OpenStdin: true})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				p := newPeer()
				err := k.Attach("", both, p.mine)
				if err == nil {
					_ = k.Run("")
					if i == 0 {
						f.end <- executor.Exit{Code: 1}
					}
					if i == 1 {
						k.Kill()
					}
					_, _ = io.Copy(io.Discard, p.r)
				}
				_, _ = k.Wait(context.Background(), "")
				p.close()
			})
		}
		go func() { _, _ = io.Copy(io.Discard, f.in) }()
		wg.Wait()
		k.Flush()
		if s := k.List(); len(s) != 1 || !s[0].Ended || strings.Contains(fmt.Sprint(s), "Pid:42") {
			t.Errorf("status is %+v", s)
		}
	}
}
