package buildkit

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"google.golang.org/grpc/codes"
)

// slowRegistry answers nothing but that it is one. reached gets the names of what it is asked for.
func slowRegistry(t *testing.T, reached func(repository string)) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
		switch {
		case parts[0] == "":
			return
		case parts[0] == "pushed" && r.Method == http.MethodHead:
			http.NotFound(w, r)
			return
		}
		reached(parts[0])
		_, _ = io.Copy(io.Discard, r.Body) // then its end is noticed
		<-r.Context().Done()
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// TestKilled checks that of a client which is killed, or hangs, nothing stays, in whatever phase of its build it is: no
// process, no mount, no session; that the history says why the build has ended; and that builds of others go on.
func TestKilled(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "hung": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) { killed(t, sig) })
	}
}

func killed(t *testing.T, sig syscall.Signal) {
	d := observed(t)
	d.load()
	d.must(opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"}))
	was := d.state()
	asked := map[string]chan struct{}{"slow": make(chan struct{}), "pushed": make(chan struct{})}
	var once sync.Mutex
	registry := slowRegistry(t, func(repository string) {
		once.Lock()
		defer once.Unlock()
		if ch := asked[repository]; ch != nil {
			close(ch)
			asked[repository] = nil
		}
	})
	inRegistry := map[string]<-chan struct{}{"resolve": asked["slow"], "push": asked["pushed"]}
	marker := d.seconds("6")

	// Others build until the loners have gone: one whose progress a loner watches, one that shares a step with a loner.
	var others sync.WaitGroup
	other := func(ref, text string) {
		others.Go(func() {
			opt := opts(t, map[string]string{"Dockerfile": text})
			opt.Ref = ref
			if _, err := d.c.Solve(t.Context(), nil, opt, drained()); err != nil {
				t.Errorf("the build %s: %v", ref, err)
			}
		})
	}
	watched, sharing := "8"+marker, "9"+marker
	other("watched", "FROM busybox\nRUN echo ready; sleep "+watched+"; true\n")
	other("sharing", shared(marker))

	var loners sync.WaitGroup
	for phase := range phases {
		loners.Go(func() {
			dir, err := os.MkdirTemp("", "lone") // a socket is in it
			if err != nil {
				t.Error(err)
				return
			}
			defer os.RemoveAll(dir)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), loneArgs{phase, d.addr(), marker, registry, dir}.env()...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Error(err)
				return
			}
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			there := make(chan bool, 2)
			go func() { there <- ready(out) }()
			if ch := inRegistry[phase]; ch != nil {
				go func() {
					<-ch
					there <- true
				}()
			}
			if !<-there {
				_ = cmd.Wait()
				t.Errorf("%s: the client has not come to it: %s", phase, stderr.String())
				return
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Errorf("%s: %v", phase, err)
			}
			if phase != "status" && phase != "no session" { // which may be no builds
				if why, code := d.why(phase); !named(why) || code != codes.Canceled {
					t.Errorf("%s: the history says %s: %q", phase, code, why)
				}
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // the error is the signal
		})
	}
	loners.Wait()
	wake(t, watched)
	wake(t, sharing)
	others.Wait()
	if err := d.settled("sleep " + marker); err != nil {
		t.Error(err)
	}
	d.restful(was)
}

// named says whether an error names what has become of the client.
func named(why string) bool {
	for _, s := range []string{"was lost", "canceled", "no active session"} {
		if strings.Contains(why, s) {
			return true
		}
	}
	return false
}

// ready reads until a loner is where it wants to be.
func ready(r io.Reader) bool {
	buf := make([]byte, 6)
	_, err := io.ReadFull(r, buf)
	return err == nil && string(buf) == "ready\n"
}

// why waits for the end of a build, and returns the error that the history has of it, and its code.
func (d *daemon) why(ref string) (string, codes.Code) {
	var last *controlapi.BuildHistoryRecord
	if !comes(func() bool {
		for _, rec := range d.histories(&controlapi.BuildHistoryRequest{Ref: ref}) {
			if rec.GetCompletedAt() != nil {
				last = rec
			}
		}
		return last != nil
	}) {
		return fmt.Sprintf("the build %s does not end", ref), codes.OK
	}
	return last.GetError().GetMessage(), codes.Code(last.GetError().GetCode())
}

// drained takes what is told of a build, and forgets it.
func drained() chan *client.SolveStatus {
	ch := make(chan *client.SolveStatus)
	go func() {
		for range ch {
		}
	}()
	return ch
}
