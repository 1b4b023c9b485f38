package executortest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
)

// A HostCase is what RunHost tests.
type HostCase struct {
	Host executor.Host
	Root *os.File // as a Maker's
	// Again returns the Host of a daemon that was started after the first was killed.
	Again func(t *testing.T) executor.Host
	// Break kills the keeper of the container of dir, as kill -9 does.
	Break func(t *testing.T, dir string)
}

type hostSuite struct {
	HostCase
	dir string
}

// RunHost checks the contract of executor.Host and executor.Container.
func RunHost(t *testing.T, maker func(t *testing.T) HostCase) {
	for name, test := range map[string]func(*testing.T, *hostSuite){
		"Output":      testHostOutput,
		"Input":       testHostInput,
		"StdinOnce":   testHostStdinOnce,
		"Detach":      testHostDetach,
		"NoInput":     testHostNoInput,
		"Missing":     testHostMissing,
		"Exists":      testHostExists,
		"Signal":      testHostSignal,
		"Delete":      testHostDelete,
		"NeverRun":    testHostNeverRun,
		"Exec":        testHostExec,
		"ExecMissing": testHostExecMissing,
		"ExecEnds":    testHostExecEnds,
		"Open":        testHostOpen,
		"OpenEnded":   testHostOpenEnded,
		"OpenNothing": testHostOpenNothing,
		"Broken":      testHostBroken,
		"Again":       testHostAgain,
		"WaitCtx":     testHostWaitCtx,
		"Pause":       testHostPause,
		"Log":         testHostLog,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, &hostSuite{maker(t), t.TempDir()})
		})
	}
}

func (s *hostSuite) spec(script string) *executor.Spec {
	return &executor.Spec{
		ID: fmt.Sprintf("suite-%d", number.Add(1)), Hostname: "suite", Root: s.Root,
		Process: *shell(script), Network: executor.Network{Mode: executor.NetworkNone},
	}
}

// create makes a container, which the test's end deletes.
func (s *hostSuite) create(t *testing.T, script string, opt executor.HostOptions) executor.Container {
	t.Helper()
	c, err := s.Host.Create(t.Context(), s.dir, s.spec(script), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background()); err != nil {
			t.Errorf("deleting: %v", err)
		}
		c.Close()
	})
	return c
}

// An attached is an attachment with what came out of it.
type attached struct {
	executor.Attachment
	out, errs *bufio
	done      chan struct{} // closed at the end
	bad       error         // what was wrong with the frames; to be read after done
}

var allStreams = executor.Streams{Stdin: true, Stdout: true, Stderr: true}

// attach attaches to all streams of a process.
func attach(t *testing.T, c executor.Container, id string) *attached {
	t.Helper()
	conn, err := c.Attach(t.Context(), id, allStreams)
	if err != nil {
		t.Fatal(err)
	}
	a := &attached{Attachment: conn, out: newBufio(), errs: newBufio(), done: make(chan struct{})}
	t.Cleanup(func() {
		conn.Close()
		<-a.done
	})
	go func() {
		defer close(a.done)
		a.bad = a.demultiplex()
	}()
	return a
}

func closeWrite(t *testing.T, a executor.Attachment) {
	t.Helper()
	if err := a.CloseWrite(); err != nil {
		t.Error(err)
	}
}

// demultiplex reads Docker's frames.
func (a *attached) demultiplex() error {
	head := make([]byte, 8)
	for {
		if _, err := io.ReadFull(a, head); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var w io.Writer = a.out
		switch head[0] {
		case 1:
		case 2:
			w = a.errs
		default:
			return fmt.Errorf("stream %d", head[0])
		}
		if _, err := io.CopyN(w, a, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			return err
		}
	}
}

func run(t *testing.T, c executor.Container, id string) {
	t.Helper()
	if err := c.Run(t.Context(), id); err != nil {
		t.Fatalf("running %q: %v", id, err)
	}
}

func waitFor(t *testing.T, c executor.Container, id string) executor.Exit {
	t.Helper()
	exit, err := c.Wait(context.Background(), id)
	if err != nil {
		t.Fatalf("waiting for %q: %v", id, err)
	}
	if exit.At.IsZero() {
		t.Error("the exit has no time")
	}
	return exit
}

// begin creates and runs a script that says "ready", and returns when it has.
func (s *hostSuite) begin(t *testing.T, script string) (executor.Container, *attached) {
	t.Helper()
	c := s.create(t, script, executor.HostOptions{})
	a := attach(t, c, "")
	run(t, c, "")
	a.out.awaitReady()
	return c, a
}

func (a *attached) check(t *testing.T, out, errs string) {
	t.Helper()
	<-a.done
	if a.bad != nil || a.out.String() != out || a.errs.String() != errs {
		t.Errorf("output is %q and %q, %v; want %q and %q", a.out, a.errs, a.bad, out, errs)
	}
}

// Whoever is attached gets all that the process said, on both streams, and then the end.
func testHostOutput(t *testing.T, s *hostSuite) {
	c := s.create(t, scriptStreams, executor.HostOptions{})
	one, two := attach(t, c, ""), attach(t, c, "")
	if pid := c.Pid(""); pid < 0 {
		t.Errorf("pid is %d", pid)
	}
	run(t, c, "")
	if exit := waitFor(t, c, ""); exit.Code != 3 || exit.Signal != 0 {
		t.Errorf("exit is %+v", exit)
	}
	one.check(t, "out\n", "err\n")
	two.check(t, "out\n", "err\n")
	if _, err := c.Attach(t.Context(), "", allStreams); err == nil {
		t.Error("attached to what has ended")
	}
}

// CloseWrite ends the input, and what comes out later still arrives.
func testHostInput(t *testing.T, s *hostSuite) {
	c := s.create(t, scriptCat, executor.HostOptions{OpenStdin: true, StdinOnce: true})
	a := attach(t, c, "")
	run(t, c, "")
	in := strings.Repeat("some input\n", 20000)
	if _, err := io.WriteString(a, in); err != nil {
		t.Fatal(err)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if exit := waitFor(t, c, ""); exit.Code != 0 {
		t.Errorf("exit is %+v", exit)
	}
	a.check(t, in, "")
}

// With StdinOnce the input ends when who wrote has gone.
func testHostStdinOnce(t *testing.T, s *hostSuite) {
	c := s.create(t, scriptCat, executor.HostOptions{OpenStdin: true, StdinOnce: true})
	writer, reader := attach(t, c, ""), attach(t, c, "")
	run(t, c, "")
	if _, err := io.WriteString(writer, "ready\n"); err != nil {
		t.Fatal(err)
	}
	reader.out.awaitReady()
	writer.Close()
	waitFor(t, c, "")
	reader.check(t, "ready\n", "")
}

// Without StdinOnce the input goes on with the next attachment, also after one that has ended its own: that is over then.
func testHostDetach(t *testing.T, s *hostSuite) {
	c := s.create(t, scriptCat, executor.HostOptions{OpenStdin: true})
	first := attach(t, c, "")
	run(t, c, "")
	if _, err := io.WriteString(first, "ready\n"); err != nil {
		t.Fatal(err)
	}
	first.out.awaitReady()
	first.Close()
	second, third := attach(t, c, ""), attach(t, c, "")
	if err := second.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	second.check(t, "", "")
	if _, err := io.WriteString(third, "ready\n"); err != nil {
		t.Fatal(err)
	}
	third.out.awaitReady()
	if err := c.Signal(t.Context(), "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, c, "")
	third.check(t, "ready\n", "")
}

// Without OpenStdin there is nothing to read.
func testHostNoInput(t *testing.T, s *hostSuite) {
	c := s.create(t, scriptCat, executor.HostOptions{})
	run(t, c, "")
	if exit := waitFor(t, c, ""); exit.Code != 0 {
		t.Errorf("exit is %+v", exit)
	}
}

// A command that is not there is a StartError of Run with the code of a shell.
func testHostMissing(t *testing.T, s *hostSuite) {
	spec := s.spec("")
	spec.Process.Args = []string{"/no/such/command"}
	c, err := s.Host.Create(t.Context(), s.dir, spec, executor.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a := attach(t, c, "")
	var se *executor.StartError
	if err := c.Run(t.Context(), ""); !errors.As(err, &se) || se.Code != 127 || se.Path != "/no/such/command" {
		t.Errorf("error is %#v, want a StartError with code 127", err)
	}
	a.check(t, "", "")
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	var gone *executor.GoneError
	if _, err := s.Host.Open(t.Context(), s.dir); !errors.As(err, &gone) || gone.Known {
		t.Errorf("opening: %#v, want a GoneError without an exit", err)
	}
}

// There is one container in a directory.
func testHostExists(t *testing.T, s *hostSuite) {
	s.begin(t, scriptSleep)
	if c, err := s.Host.Create(t.Context(), s.dir, s.spec(scriptTrue), executor.HostOptions{}); err == nil {
		t.Error("two containers have a directory")
		_ = c.Delete(t.Context())
	}
}

// Signals reach a process that runs, and no other.
func testHostSignal(t *testing.T, s *hostSuite) {
	c := s.create(t, scriptTrap, executor.HostOptions{})
	a := attach(t, c, "")
	if err := c.Signal(t.Context(), "", syscall.SIGTERM); !errors.Is(err, executor.ErrNotRunning) {
		t.Errorf("signal before it runs: %v", err)
	}
	run(t, c, "")
	a.out.awaitReady()
	if err := c.Resize(t.Context(), "", 10, 20); !errors.Is(err, executor.ErrNoTerminal) {
		t.Errorf("resizing: %v", err)
	}
	if err := c.Signal(t.Context(), "", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := waitFor(t, c, ""); exit.Code != 9 {
		t.Errorf("exit is %+v", exit)
	}
	if err := c.Signal(t.Context(), "", syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
	a.check(t, "ready\ncaught\n", "")
}

// Delete ends all, may be called again, and who waited learns how it ended or that the keeper has.
func testHostDelete(t *testing.T, s *hostSuite) {
	c, _ := s.begin(t, scriptSleep)
	waited := make(chan error)
	go func() {
		exit, err := c.Wait(context.Background(), "")
		if err == nil && exit.Code != 137 {
			err = fmt.Errorf("exit is %+v", exit)
		}
		waited <- err
	}()
	for range 2 {
		if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var gone *executor.GoneError
	if err := <-waited; err != nil && !errors.As(err, &gone) {
		t.Error(err)
	}
	for name, f := range map[string]func() error{
		"Run":    func() error { return c.Run(t.Context(), "") },
		"Signal": func() error { return c.Signal(t.Context(), "", syscall.SIGTERM) },
		"Pause":  func() error { return c.Pause(t.Context()) },
		"Add":    func() error { return c.Add(t.Context(), "x", shell(scriptTrue), false) },
		"Pids":   func() error { _, err := c.Pids(t.Context()); return err },
		"Attach": func() error { _, err := c.Attach(t.Context(), "", allStreams); return err },
		"Stats":  func() error { _, err := c.Stats(t.Context()); return err },
		"Open":   func() error { _, err := s.Host.Open(t.Context(), s.dir); return err },
	} {
		if err := f(); !errors.As(err, &gone) {
			t.Errorf("%s after Delete: %v, want a GoneError", name, err)
		}
	}
	if pid := c.Pid(""); pid != 0 {
		t.Errorf("pid is %d", pid)
	}
}

// What was never run is deleted like anything else, and has no exit.
func testHostNeverRun(t *testing.T, s *hostSuite) {
	c := s.create(t, scriptSleep, executor.HostOptions{})
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	var gone *executor.GoneError
	if _, err := s.Host.Open(t.Context(), s.dir); !errors.As(err, &gone) || gone.Known {
		t.Errorf("opening: %#v, want a GoneError without an exit", err)
	}
}

// Another daemon finds a running container, and everything in it, and the first still has it, too.
func testHostOpen(t *testing.T, s *hostSuite) {
	c, a := s.begin(t, scriptTrap)
	other, err := s.Again(t).Open(t.Context(), s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if got, want := other.Pid(""), c.Pid(""); got != want || got <= 0 {
		t.Errorf("pid is %d and %d", got, want)
	}
	if pids, err := other.Pids(t.Context()); err != nil || len(pids) == 0 {
		t.Errorf("pids are %v, %v", pids, err)
	}
	if err := other.Add(t.Context(), "cat", shell(scriptCat), true); err != nil {
		t.Fatal(err)
	}
	b := attach(t, other, "cat")
	run(t, other, "cat")
	if l, ok := other.(executor.Lister); ok {
		ids, err := l.List(t.Context())
		if slices.Sort(ids); err != nil || !slices.Equal(ids, []string{"", "cat"}) {
			t.Errorf("processes are %q, %v", ids, err)
		}
	}
	closeWrite(t, b)
	waitFor(t, other, "cat")
	if err := other.Signal(t.Context(), "", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := waitFor(t, other, ""); exit.Code != 9 {
		t.Errorf("exit is %+v", exit)
	}
	if exit := waitFor(t, c, ""); exit.Code != 9 {
		t.Errorf("exit is %+v", exit)
	}
	a.check(t, "ready\ncaught\n", "")
}

// How a container ended is known when its keeper has gone.
func testHostOpenEnded(t *testing.T, s *hostSuite) {
	c := s.create(t, scriptStreams, executor.HostOptions{})
	run(t, c, "")
	want := waitFor(t, c, "")
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := s.Again(t).Open(t.Context(), s.dir)
	var gone *executor.GoneError
	if !errors.As(err, &gone) || !gone.Known || gone.Exit.Code != 3 || !gone.Exit.At.Equal(want.At) {
		t.Errorf("error is %#v, want a GoneError with %+v", err, want)
	}
}

func testHostOpenNothing(t *testing.T, s *hostSuite) {
	_, err := s.Host.Open(t.Context(), filepath.Join(s.dir, "nothing"))
	var gone *executor.GoneError
	if !errors.As(err, &gone) || gone.Known {
		t.Errorf("error is %#v, want a GoneError", err)
	}
}

// The end of a keeper is that of its processes, and whoever waits learns of it.
func testHostBroken(t *testing.T, s *hostSuite) {
	c, a := s.begin(t, scriptSleep)
	s.Break(t, s.dir)
	var gone *executor.GoneError
	if exit, err := c.Wait(t.Context(), ""); !errors.As(err, &gone) || gone.Known {
		t.Errorf("exit is %+v, error %#v, want a GoneError without an exit", exit, err)
	}
	<-a.done
	if err := c.Run(t.Context(), ""); !errors.As(err, &gone) {
		t.Errorf("Run: %v, want a GoneError", err)
	}
	if _, err := s.Again(t).Open(t.Context(), s.dir); !errors.As(err, &gone) || gone.Known {
		t.Errorf("opening: %#v, want a GoneError without an exit", err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Errorf("deleting: %v", err)
	}
}

// A directory is used again after Delete, and knows nothing of the container before.
func testHostAgain(t *testing.T, s *hostSuite) {
	for _, script := range []string{scriptStreams, scriptSleep} {
		c := s.create(t, script, executor.HostOptions{})
		run(t, c, "")
		if script == scriptStreams {
			waitFor(t, c, "")
			if err := c.Delete(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Break(t, s.dir)
	var gone *executor.GoneError
	if _, err := s.Again(t).Open(t.Context(), s.dir); !errors.As(err, &gone) || gone.Known {
		t.Errorf("opening: %#v, want a GoneError without an exit", err)
	}
}

// Wait ends with its context, and the process goes on.
func testHostWaitCtx(t *testing.T, s *hostSuite) {
	c, _ := s.begin(t, scriptSleep)
	cause := errors.New("the cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := c.Wait(ctx, ""); !errors.Is(err, cause) {
		t.Errorf("error is %v, want the context's cause", err)
	}
	if err := c.Signal(t.Context(), "", 0); err != nil {
		t.Errorf("the process has ended: %v", err)
	}
}

// What pauses can be resumed, and killed while it is paused. Limits and use can be asked for meanwhile.
func testHostPause(t *testing.T, s *hostSuite) {
	c, _ := s.begin(t, scriptSleep)
	for range 2 {
		if err := c.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	st, err := c.Stats(t.Context())
	if err != nil || st.Memory == 0 || st.Read.IsZero() {
		t.Errorf("stats are %+v, %v", st, err)
	}
	for range 2 {
		if err := c.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Update(t.Context(), executor.Limits{Memory: 64 << 20, MemorySwap: -1, Pids: 100}); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Stats(t.Context()); err != nil || st.MemoryLimit != 64<<20 || st.PidsLimit != 100 {
		t.Errorf("stats are %+v, %v", st, err)
	}
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(t.Context(), "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := waitFor(t, c, ""); exit.Signal != syscall.SIGKILL {
		t.Errorf("exit is %+v", exit)
	}
	if err := c.Pause(t.Context()); !errors.Is(err, executor.ErrNotRunning) {
		t.Errorf("pausing what has ended: %v", err)
	}
}

// The log has all when Wait returns, and only what the first process said.
func testHostLog(t *testing.T, s *hostSuite) {
	path := filepath.Join(s.dir, "c-json.log")
	c := s.create(t, scriptStreams, executor.HostOptions{Log: executor.Log{Driver: "json-file", Path: path}})
	run(t, c, "")
	waitFor(t, c, "")
	data, err := os.ReadFile(path)
	for _, want := range []string{`{"log":"out\n","stream":"stdout","time":"`, `{"log":"err\n","stream":"stderr","time":"`} {
		if err != nil || !strings.Contains(string(data), want) || strings.Count(string(data), "\n") != 2 {
			t.Errorf("the log is %q, %v; want %q in it", data, err, want)
		}
	}
}
