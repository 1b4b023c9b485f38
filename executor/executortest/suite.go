package executortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
)

// A Maker returns an executor, and the root of a file system that can be written to and has /bin/sh with cat, head,
// sleep; or, for a Fake with Shell, nothing but a file at /bin/sh. Both are the test's until it ends.
type Maker func(t *testing.T) (e executor.Executor, root *os.File)

var number atomic.Int64

type suite struct {
	executor.Executor
	root *os.File
}

// Run checks the contract of executor.Executor and executor.Sandbox.
func Run(t *testing.T, maker Maker) {
	for name, test := range map[string]func(*testing.T, *suite){
		"Streams":      testStreams,
		"Input":        testInput,
		"Much":         testMuch,
		"SameWriter":   testSameWriter,
		"NoStreams":    testNoStreams,
		"Root":         testRoot,
		"Missing":      testMissing,
		"NotRun":       testNotRun,
		"Cancelled":    testCancelled,
		"WaitCtx":      testWaitCtx,
		"Signal":       testSignal,
		"Kill":         testKill,
		"Close":        testClose,
		"SameID":       testSameID,
		"Exec":         testExec,
		"ExecCancel":   testExecCancel,
		"ExecMissing":  testExecMissing,
		"ExecAfterEnd": testExecAfterEnd,
		"Spawn":        testSpawn,
		"SpawnEnds":    testSpawnEnds,
		"Many":         testMany,
	} {
		t.Run(name, func(t *testing.T) {
			e, root := maker(t)
			test(t, &suite{e, root})
		})
	}
}

func (s *suite) spec(script string) *executor.Spec {
	return &executor.Spec{
		ID: fmt.Sprintf("suite-%d", number.Add(1)), Hostname: "suite", Root: s.root,
		Process: *shell(script), Network: executor.Network{Mode: executor.NetworkNone},
	}
}

func shell(script string) *executor.Process {
	return &executor.Process{Args: []string{"/bin/sh", "-c", script}}
}

func (s *suite) start(t *testing.T, script string, rw executor.IO) executor.Sandbox {
	t.Helper()
	b, err := s.Start(t.Context(), s.spec(script), rw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func wait(t *testing.T, b executor.Sandbox) executor.Exit {
	t.Helper()
	exit, err := b.Wait(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if exit.At.IsZero() {
		t.Error("the exit has no time")
	}
	return exit
}

// startReady starts a script that says "ready", and returns when it has.
func (s *suite) startReady(t *testing.T, script string) (executor.Sandbox, *bufio) {
	t.Helper()
	out := newBufio()
	b := s.start(t, script, executor.IO{Stdout: out})
	out.awaitReady()
	return b, out
}

// A bufio is a buffer that can be waited for.
type bufio struct {
	mu   sync.Mutex
	more *sync.Cond
	b    bytes.Buffer
}

func newBufio() *bufio {
	b := new(bufio)
	b.more = sync.NewCond(&b.mu)
	return b
}

func (b *bufio) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.more.Broadcast()
	return b.b.Write(p)
}

// awaitReady waits for what the scripts say first that go on.
func (b *bufio) awaitReady() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !strings.Contains(b.b.String(), "ready\n") {
		b.more.Wait()
	}
}

func (b *bufio) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Output goes to the right writers, and the exit code is the process's; a second Wait returns the same.
func testStreams(t *testing.T, s *suite) {
	var stdout, stderr bytes.Buffer
	b := s.start(t, scriptStreams, executor.IO{Stdout: &stdout, Stderr: &stderr})
	exit := wait(t, b)
	if exit.Code != 3 || exit.Signal != 0 || exit.OOMKilled {
		t.Errorf("exit is %+v, want code 3", exit)
	}
	if stdout.String() != "out\n" || stderr.String() != "err\n" {
		t.Errorf("output is %q and %q", &stdout, &stderr)
	}
	if again := wait(t, b); again != exit {
		t.Errorf("a second Wait returned %+v, the first %+v", again, exit)
	}
}

// Input reaches the process in full, and its end, too.
func testInput(t *testing.T, s *suite) {
	in := strings.Repeat("0123456789abcdef", 20000)
	var out bytes.Buffer
	b := s.start(t, scriptCat, executor.IO{Stdin: strings.NewReader(in), Stdout: &out})
	if exit := wait(t, b); exit.Code != 0 || out.String() != in {
		t.Errorf("code %d, %d of %d bytes came back", exit.Code, out.Len(), len(in))
	}
}

// Wait returns only when all of a large output has been handed on, to a slow writer also.
func testMuch(t *testing.T, s *suite) {
	var out, errs count
	b := s.start(t, scriptMuch, executor.IO{Stdout: &out, Stderr: &errs})
	wait(t, b)
	if out.n.Load() != 3000000 || errs.n.Load() != 1000000 {
		t.Errorf("%d and %d bytes arrived, want 3000000 and 1000000", out.n.Load(), errs.n.Load())
	}
}

type count struct{ n atomic.Int64 }

func (c *count) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// One writer for both streams gets all in the order it was written, unless the executor says by a method that it has a pipe
// for each, as containers do.
func testSameWriter(t *testing.T, s *suite) {
	if _, ok := s.Executor.(interface{ Unordered() }); ok {
		t.Skip("streams are not in order")
	}
	var both bytes.Buffer
	b := s.start(t, scriptStreams, executor.IO{Stdout: &both, Stderr: &both})
	wait(t, b)
	if both.String() != "out\nerr\n" {
		t.Errorf("output is %q", &both)
	}
}

// Without streams, input is empty and output is discarded.
func testNoStreams(t *testing.T, s *suite) {
	if exit := wait(t, s.start(t, scriptCat, executor.IO{})); exit.Code != 0 {
		t.Errorf("cat: code %d", exit.Code)
	}
	if exit := wait(t, s.start(t, scriptMuch, executor.IO{})); exit.Code != 0 {
		t.Errorf("much output: code %d", exit.Code)
	}
}

// The process writes to the root, and the caller's file stays open and usable for the next sandbox.
func testRoot(t *testing.T, s *suite) {
	wait(t, s.start(t, scriptWrite, executor.IO{}))
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/made", s.root.Fd()))
	if err != nil || string(data) != "content\n" {
		t.Errorf("/made is %q, %v", data, err)
	}
	if exit := wait(t, s.start(t, scriptTrue, executor.IO{})); exit.Code != 0 {
		t.Errorf("the next sandbox with the root: code %d", exit.Code)
	}
}

// A command that is not there is a StartError with the code that a shell has for it, and leaves the ID free.
func testMissing(t *testing.T, s *suite) {
	spec := s.spec("")
	spec.Process.Args = []string{"/no/such/command"}
	_, err := s.Start(t.Context(), spec, executor.IO{})
	var se *executor.StartError
	if !errors.As(err, &se) || se.Code != 127 || se.Path != "/no/such/command" {
		t.Fatalf("error is %#v, want a StartError with code 127", err)
	}
	spec.Process = *shell(scriptTrue)
	b, err := s.Start(t.Context(), spec, executor.IO{})
	if err != nil {
		t.Fatalf("starting again: %v", err)
	}
	b.Close()
}

// A command that may not be executed is a StartError with code 126.
func testNotRun(t *testing.T, s *suite) {
	spec := s.spec("")
	spec.Process.Args = []string{"/bin"}
	_, err := s.Start(t.Context(), spec, executor.IO{})
	var se *executor.StartError
	if !errors.As(err, &se) || se.Code != 126 {
		t.Fatalf("error is %#v, want a StartError with code 126", err)
	}
}

// A context that has ended starts nothing; one that ends after Start has no effect.
func testCancelled(t *testing.T, s *suite) {
	cause := errors.New("the cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := s.Start(ctx, s.spec(scriptTrue), executor.IO{}); !errors.Is(err, cause) {
		t.Errorf("error is %v, want the context's cause", err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	in, w := io.Pipe()
	var out bytes.Buffer
	b, err := s.Start(ctx, s.spec(scriptCat), executor.IO{Stdin: in, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	cancel(cause)
	fmt.Fprint(w, "still here")
	w.Close()
	if exit := wait(t, b); exit.Code != 0 || out.String() != "still here" {
		t.Errorf("code %d, output %q", exit.Code, &out)
	}
}

// Wait returns when its context ends, and the process goes on.
func testWaitCtx(t *testing.T, s *suite) {
	b, _ := s.startReady(t, scriptSleep)
	cause := errors.New("the cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := b.Wait(ctx); !errors.Is(err, cause) {
		t.Errorf("error is %v, want the context's cause", err)
	}
	if err := b.Signal(syscall.SIGKILL); err != nil {
		t.Errorf("the process has ended: %v", err)
	}
	wait(t, b)
}

// A signal reaches the process; after its end there is none to reach.
func testSignal(t *testing.T, s *suite) {
	b, out := s.startReady(t, scriptTrap)
	if err := b.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, b); exit.Code != 9 || exit.Signal != 0 || out.String() != "ready\ncaught\n" {
		t.Errorf("exit is %+v, output %q", exit, out)
	}
	if err := b.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("after the end: %v, want os.ErrProcessDone", err)
	}
}

// The exit of a process that was killed names the signal.
func testKill(t *testing.T, s *suite) {
	b, _ := s.startReady(t, scriptSleep)
	if err := b.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, b); exit.Code != 137 || exit.Signal != syscall.SIGKILL || exit.OOMKilled {
		t.Errorf("exit is %+v, want code 137 and signal 9", exit)
	}
}

// Close ends a running process, may be called again, and leaves Wait with the exit.
func testClose(t *testing.T, s *suite) {
	b, _ := s.startReady(t, scriptSleep)
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if exit := wait(t, b); exit.Signal != syscall.SIGKILL {
		t.Errorf("exit is %+v, want signal 9", exit)
	}
}

// An ID is taken until Close.
func testSameID(t *testing.T, s *suite) {
	spec := s.spec(scriptTrue)
	b, err := s.Start(t.Context(), spec, executor.IO{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context(), spec, executor.IO{}); err == nil {
		t.Error("two sandboxes have the same ID")
	}
	b.Close()
	if b, err = s.Start(t.Context(), spec, executor.IO{}); err != nil {
		t.Fatalf("after Close: %v", err)
	}
	b.Close()
}

// Exec runs in the same root, and returns its own output and code.
func testExec(t *testing.T, s *suite) {
	wait(t, s.start(t, scriptWrite, executor.IO{}))
	b, _ := s.startReady(t, scriptSleep)
	for _, want := range []string{"content\n", "again\n"} {
		var out bytes.Buffer
		exit, err := b.Exec(t.Context(), shell(scriptExec), executor.IO{Stdout: &out})
		if err != nil || exit.Code != 4 || out.String() != want {
			t.Errorf("exit %+v, %v, output %q, want %q", exit, err, &out, want)
		}
	}
}

// Cancelling an Exec ends its process and not the sandbox.
func testExecCancel(t *testing.T, s *suite) {
	b, _ := s.startReady(t, scriptSleep)
	cause := errors.New("the cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	out := newBufio()
	go func() {
		out.awaitReady()
		cancel(cause)
	}()
	if _, err := b.Exec(ctx, shell(scriptSleep), executor.IO{Stdout: out}); !errors.Is(err, cause) {
		t.Errorf("error is %v, want the context's cause", err)
	}
	if err := b.Signal(0); err != nil {
		t.Errorf("the sandbox has ended: %v", err)
	}
}

func testExecMissing(t *testing.T, s *suite) {
	b, _ := s.startReady(t, scriptSleep)
	_, err := b.Exec(t.Context(), &executor.Process{Args: []string{"/no/such/command"}}, executor.IO{})
	var se *executor.StartError
	if !errors.As(err, &se) || se.Code != 127 {
		t.Errorf("error is %#v, want a StartError with code 127", err)
	}
}

// There is no Exec in a sandbox that has ended.
func testExecAfterEnd(t *testing.T, s *suite) {
	b := s.start(t, scriptTrue, executor.IO{})
	wait(t, b)
	if exit, err := b.Exec(t.Context(), shell(scriptTrue), executor.IO{}); err == nil {
		t.Errorf("exit is %+v", exit)
	}
}

// What Spawn started takes signals of its own and says how it ended, and the sandbox goes on. The context of Spawn has
// no more to say, and without a terminal there is nothing to resize.
func testSpawn(t *testing.T, s *suite) {
	b, _ := s.startReady(t, scriptSleep)
	out := newBufio()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := b.(executor.Spawner).Spawn(ctx, shell(scriptTrap), executor.IO{Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	out.awaitReady()
	if err := r.Resize(10, 20); !errors.Is(err, executor.ErrNoTerminal) {
		t.Errorf("resizing: %v", err)
	}
	if err := r.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if exit, err := r.Wait(t.Context()); err != nil || exit.Code != 9 {
		t.Errorf("exit is %+v, %v", exit, err)
	}
	if err := r.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
	if err := b.Signal(0); err != nil {
		t.Errorf("the sandbox has ended: %v", err)
	}
}

// The end of the first process is that of what Spawn started.
func testSpawnEnds(t *testing.T, s *suite) {
	b, _ := s.startReady(t, scriptSleep)
	out := newBufio()
	r, err := b.(executor.Spawner).Spawn(t.Context(), shell(scriptSleep), executor.IO{Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	out.awaitReady()
	if err := b.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if exit, err := r.Wait(t.Context()); err == nil && exit.Code == 0 {
		t.Errorf("exit is %+v", exit)
	}
	if _, err := b.(executor.Spawner).Spawn(t.Context(), shell(scriptTrue), executor.IO{}); err == nil {
		t.Error("a process was started in a sandbox that has ended")
	}
}

// Twenty sandboxes run at once, and each gets its own output.
func testMany(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			in := fmt.Sprintf("sandbox %d", i)
			var out bytes.Buffer
			b, err := s.Start(t.Context(), s.spec(scriptCat), executor.IO{Stdin: strings.NewReader(in), Stdout: &out})
			if err != nil {
				t.Error(err)
				return
			}
			defer b.Close()
			if exit, err := b.Wait(t.Context()); err != nil || exit.Code != 0 || out.String() != in {
				t.Errorf("%s: exit %+v, %v, output %q", in, exit, err, &out)
			}
		})
	}
	wg.Wait()
}
