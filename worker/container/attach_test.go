package container

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

var all = executor.Streams{Stdin: true, Stdout: true, Stderr: true}

// readAll returns what comes out of an attachment, without frames.
func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	var b bytes.Buffer
	if err := demultiplex(r, &b); err != io.EOF { //nolint:errorlint // exactly that
		t.Errorf("reading: %v", err)
	}
	return b.String()
}

// Who attaches before the start gets everything, and what he writes before arrives.
func TestAttachBefore(t *testing.T) {
	f := newFixture(t)
	req := request("cat")
	req.OpenStdin, req.StdinOnce = true, true
	id := f.create(req)
	conn, err := f.Attach(t.Context(), id, worker.AttachOptions{Stream: true, Streams: all})
	f.must(err)
	defer conn.Close()
	deaf, err := f.Attach(t.Context(), id, worker.AttachOptions{Stream: true, Streams: executor.Streams{Stdout: true}})
	f.must(err)
	_, err = io.WriteString(deaf, "into nothing") // which nobody waits for
	f.must(err)
	f.must(deaf.Close())
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(conn, "in")
		if err == nil {
			err = conn.CloseWrite()
		}
		written <- err
	}()
	f.must(f.Start(t.Context(), id))
	f.must(<-written)
	if got := readAll(t, conn); got != "in" {
		t.Errorf("got %q", got)
	}
	f.await(id)
}

// The input of a container that is started later ends where the one who was to write it has gone, unless others may write
// on: of that attachment nothing is kept.
func TestAttachGone(t *testing.T) {
	f := newFixture(t)
	req := request("cat")
	req.OpenStdin, req.StdinOnce = true, true
	id := f.create(req)
	conn, err := f.Attach(t.Context(), id, worker.AttachOptions{Stream: true, Streams: executor.Streams{Stdin: true}})
	f.must(err)
	f.must(conn.Close())
	f.must(f.Start(t.Context(), id))
	f.await(id)

	req = request("cat")
	req.OpenStdin = true
	id = f.create(req)
	conn, err = f.Attach(t.Context(), id, worker.AttachOptions{Stream: true, Streams: executor.Streams{Stdin: true}})
	f.must(err)
	f.must(conn.Close())
	c, err := f.find(id)
	f.must(err)
	if n := len(c.takePending()); n != 0 {
		t.Errorf("%d wait to be connected", n)
	}
	f.must(f.Start(t.Context(), id))
	conn, err = f.Attach(t.Context(), id, worker.AttachOptions{Stream: true, Streams: all})
	f.must(err)
	f.must(conn.CloseWrite())
	if got := readAll(t, conn); got != "" {
		t.Errorf("got %q", got)
	}
	if phase := c.status().Phase; phase != Running {
		t.Errorf("it is %v after the end of one attachment", phase)
	}
	f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
}

// An attachment to what never starts, or is removed, ends; and one that is closed before is forgotten.
func TestAttachNever(t *testing.T) {
	f := newFixture(t)
	for _, end := range []func(id string){
		func(id string) { f.want(f.Start(t.Context(), id), "no such file or directory") },
		func(id string) { f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{})) },
	} {
		id := f.create(request("/no/such/file"))
		conn, err := f.Attach(t.Context(), id, worker.AttachOptions{Stream: true, Streams: all})
		f.must(err)
		closed, err := f.Attach(t.Context(), id, worker.AttachOptions{Stream: true, Streams: all})
		f.must(err)
		f.must(closed.Close())
		if _, err := closed.Write([]byte("x")); err == nil {
			t.Error("wrote to a closed attachment")
		}
		if id != "" {
			end(id)
		}
		if got := readAll(t, conn); got != "" {
			t.Errorf("got %q", got)
		}
		f.must(conn.Close())
	}
}

// Whenever somebody attaches while a container is started, he meets its end.
func TestAttachMeanwhile(t *testing.T) {
	f := newFixture(t)
	for range 40 {
		id := f.create(request("sleep"))
		ended := make(chan error, 4)
		for range cap(ended) {
			go func() {
				conn, err := f.Attach(context.Background(), id, worker.AttachOptions{Stream: true, Streams: all})
				if err == nil {
					_, err = io.Copy(io.Discard, conn)
					err = errors.Join(err, conn.Close())
				}
				ended <- err
			}()
		}
		f.must(f.Start(t.Context(), id))
		f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
		for range cap(ended) {
			if err := <-ended; err != nil && !strings.Contains(err.Error(), "No such container") && !strings.Contains(err.Error(), "has ended") {
				t.Error(err)
			}
		}
	}
}

// What was said before comes first, if asked for; without a stream that is all.
func TestAttachLogs(t *testing.T) {
	f := newFixture(t)
	id := f.run(request("both"))
	f.await(id)
	conn, err := f.Attach(t.Context(), id, worker.AttachOptions{Logs: true, Streams: executor.Streams{Stdout: true}})
	f.must(err)
	if got := readAll(t, conn); got != "out\n" {
		t.Errorf("got %q", got)
	}
	f.must(conn.Close())

	id = f.run(request("sleep"))
	waitSaid(f, id, "ready\n")
	conn, err = f.Attach(t.Context(), id, worker.AttachOptions{Logs: true, Stream: true, Streams: all})
	f.must(err)
	f.must(f.Kill(t.Context(), id, ""))
	if got := readAll(t, conn); got != "ready\n" {
		t.Errorf("got %q", got)
	}
	f.must(conn.Close())
}

// Whoever goes before they have read what was said leaves nothing behind, and who does not read at all holds up no daemon that
// goes: the daemon's end would wait for them.
func TestAttachLogsUnread(t *testing.T) {
	f := newFixture(t)
	id := f.run(request("both"))
	f.await(id)
	opt := worker.AttachOptions{Logs: true, Stream: true, Streams: all}
	conn, err := f.Attach(t.Context(), id, opt)
	f.must(err)
	f.must(conn.Close())
	f.Manager.wg.Wait()

	conn, err = f.Attach(t.Context(), id, opt)
	f.must(err)
	f.restart()
	f.must(conn.Close())
}

// waitSaid follows the log until it has a text.
func waitSaid(f *fixture, id, text string) {
	f.Helper()
	var b bytes.Buffer
	done := io.EOF
	err := f.Logs(f.Context(), id, worker.LogsOptions{Stdout: true, Stderr: true, Tail: -1, Follow: true}, writerFunc(func(p []byte) (int, error) {
		b.Write(p[8:])
		if b.String() == text {
			return 0, done
		}
		return len(p), nil
	}))
	if err != done { //nolint:errorlint // exactly that
		f.Fatalf("following: %v, after %q", err, &b)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Whoever has read all that an exec says can ask for its exit code: docker's client does so at once, and takes what is not
// known for 0.
func TestExecEnd(t *testing.T) {
	f := newFixture(t)
	f.late = true
	f.restart()
	id := f.run(request("sleep"))
	for range 5 {
		exec, err := f.ExecCreate(t.Context(), id, &container.ExecCreateRequest{Cmd: []string{"env"}, AttachStdout: true})
		f.must(err)
		conn, err := f.ExecStart(t.Context(), exec, &container.ExecStartRequest{}, executor.Streams{Stdout: true})
		f.must(err)
		readAll(t, conn)
		if in, err := f.ExecInspect(t.Context(), exec); err != nil || in.Running || in.ExitCode == nil {
			t.Fatalf("exec is %+v, %v", in, err)
		}
		f.must(conn.Close())
	}
}

// An exec has streams, an end and an exit code of its own, can be started once, and is refused where nothing runs.
func TestExec(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	id := f.run(request("sleep"))
	exec, err := f.ExecCreate(ctx, id, &container.ExecCreateRequest{
		Cmd: []string{"env"}, Env: []string{"A=b"}, User: "1:2", WorkingDir: "/etc", AttachStdout: true,
	})
	f.must(err)
	conn, err := f.ExecStart(ctx, exec, &container.ExecStartRequest{}, executor.Streams{Stdout: true})
	f.must(err)
	if got := readAll(t, conn); !bytes.Contains([]byte(got), []byte("A=b\n")) || !bytes.Contains([]byte(got), []byte("PATH=")) {
		t.Errorf("got %q", got)
	}
	conn.Close()
	f.want(second(f.ExecStart(ctx, exec, &container.ExecStartRequest{}, executor.Streams{})), "exec command")
	if in, err := f.ExecInspect(ctx, exec); err != nil || in.Running || *in.ExitCode != 0 || in.ContainerID != id ||
		in.ProcessConfig.Entrypoint != "env" || in.ProcessConfig.User != "1:2" {
		t.Errorf("exec is %+v, %v", in, err)
	}
	missing, err := f.ExecCreate(ctx, id, &container.ExecCreateRequest{Cmd: []string{"/no/such"}})
	f.must(err)
	f.want(second(f.ExecStart(ctx, missing, &container.ExecStartRequest{}, executor.Streams{})), "no such file or directory")
	if in, err := f.ExecInspect(ctx, missing); err != nil || in.ExitCode == nil || *in.ExitCode != 127 {
		t.Errorf("exec is %+v, %v", in, err)
	}
	f.want(second(f.ExecInspect(ctx, "nothing")), "No such exec instance: nothing")
	f.must(f.Pause(ctx, id))
	f.want(second(f.ExecCreate(ctx, id, &container.ExecCreateRequest{Cmd: []string{"x"}})), "is paused, unpause the container before exec")
	f.must(f.Unpause(ctx, id))

	// It ends with its container, and is known until that is removed.
	long, err := f.ExecCreate(ctx, id, &container.ExecCreateRequest{Cmd: []string{"sleep"}})
	f.must(err)
	_, err = f.ExecStart(ctx, long, &container.ExecStartRequest{Detach: true}, executor.Streams{})
	f.must(err)
	in, err := f.Inspect(ctx, id, false)
	f.must(err)
	if len(in.ExecIDs) != 1 || in.ExecIDs[0] != long {
		t.Errorf("execs are %v, want %s", in.ExecIDs, long)
	}
	f.must(f.Kill(ctx, id, ""))
	if in, err := f.ExecInspect(ctx, long); err != nil || in.Running || *in.ExitCode != 137 {
		t.Errorf("exec is %+v, %v", in, err)
	}
	f.want(second(f.ExecCreate(ctx, id, &container.ExecCreateRequest{Cmd: []string{"x"}})), "is not running")
	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{}))
	f.want(second(f.ExecInspect(ctx, long)), "No such exec instance")
}

func second[T any](_ T, err error) error { return err }
