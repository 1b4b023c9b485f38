package shim_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
)

// A terminal gets the size that it is set to while it is in use, of the first process and of others, and the process is
// told by a signal. After the end it cannot be set.
func TestResize(t *testing.T) { both(t, testResize) }

func testResize(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	spec := sh(root, `trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.02; done`)
	spec.Process.Terminal = true
	first := newLines()
	b, err := e.Start(t.Context(), spec, executor.IO{Stdout: first})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	first.await("ready")
	p := spec.Process
	second := newLines()
	r, err := b.(executor.Spawner).Spawn(t.Context(), &p, executor.IO{Stdout: second})
	if err != nil {
		t.Fatal(err)
	}
	second.await("ready")
	for i, r := range []executor.Running{r, b.(executor.Running)} {
		rows := uint16(40 + i)
		if err := r.Resize(rows, 90); err != nil {
			t.Fatal(err)
		}
		if exit, err := r.Wait(t.Context()); err != nil || exit.Code != 5 {
			t.Fatalf("exit is %+v, %v", exit, err)
		}
		out := []*lines{second, first}[i]
		if want := fmt.Sprintf("%d 90", rows); !strings.Contains(out.String(), want) {
			t.Errorf("the terminal's size is not %q in %q", want, out)
		}
		if err := r.Resize(1, 1); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("resizing after the end: %v", err)
		}
	}
}

// lines are output that can be waited for.
type lines struct {
	mu   sync.Mutex
	more *sync.Cond
	b    bytes.Buffer
}

func newLines() *lines {
	l := new(lines)
	l.more = sync.NewCond(&l.mu)
	return l
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.more.Broadcast()
	return l.b.Write(p)
}

func (l *lines) await(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !strings.Contains(l.b.String(), s) {
		l.more.Wait()
	}
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
