package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"golang.org/x/net/websocket"

	"github.com/boxbuild/boxbuild/worker"
)

// stdin is a container with an open standard input, with or without a terminal.
func stdin(tty bool) worker.ContainerCreate {
	return worker.ContainerCreate{CreateRequest: container.CreateRequest{
		Config: &container.Config{OpenStdin: true, StdinOnce: true, Tty: tty},
	}}
}

// What is typed comes back, in frames, and the end of the input is the end of the process, of which the rest is still read.
func TestAttach(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	id := w.create(stdin(false), "cat")
	att, err := cli.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer att.Close()
	if kind, _ := att.MediaType(); kind != types.MediaTypeMultiplexedStream {
		t.Errorf("it is %s", kind)
	}
	w.begin(id)
	if _, err := att.Conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 13)
	if _, err := io.ReadFull(att.Reader, head); err != nil || string(head) != "\x01\x00\x00\x00\x00\x00\x00\x05hello" {
		t.Errorf("%q, %v", head, err)
	}
	if _, err := att.Conn.Write([]byte(" bye")); err != nil {
		t.Fatal(err)
	}
	if err := att.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, att.Reader); err != nil || out.String() != " bye" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if res := <-cli.ContainerWait(ctx, id, client.ContainerWaitOptions{}).Result; res.StatusCode != 0 {
		t.Errorf("it ended with %d", res.StatusCode)
	}
}

// At a terminal there are no frames, and the keys for it leave the container running.
func TestAttachTerminal(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	id := w.create(stdin(true), "cat")
	w.begin(id)
	att, err := cli.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, DetachKeys: "ctrl-a,b"})
	if err != nil {
		t.Fatal(err)
	}
	defer att.Close()
	if kind, _ := att.MediaType(); kind != types.MediaTypeRawStream {
		t.Errorf("it is %s", kind)
	}
	if _, err := att.Conn.Write([]byte("x\x01y\x01")); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 3)
	if _, err := io.ReadFull(att.Reader, said); err != nil || string(said) != "x\x01y" {
		t.Errorf("%q, %v", said, err)
	}
	if _, err := att.Conn.Write([]byte("b")); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(att.Reader); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	if info, err := cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{}); err != nil || !info.Container.State.Running {
		t.Errorf("it has ended: %v", err)
	}
	if _, err := cli.ContainerAttach(ctx, id, client.ContainerAttachOptions{DetachKeys: "ctrl-1"}); err == nil {
		t.Error("keys that there are not")
	}
}

// Who leaves a container, or a process in it, by the keys for that is reported; who hangs up is not.
func TestDetached(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	id := w.create(stdin(true), "cat")
	w.begin(id)
	att, err := cli.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	att.Close()
	made, err := cli.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"cat"}, TTY: true, AttachStdin: true, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	exec, err := cli.ExecAttach(ctx, made.ID, client.ExecAttachOptions{TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	defer exec.Close()
	if att, err = cli.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true}); err != nil {
		t.Fatal(err)
	}
	defer att.Close()
	for _, r := range []client.HijackedResponse{exec.HijackedResponse, att.HijackedResponse} {
		if _, err := r.Conn.Write([]byte{16, 17}); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r.Reader); err != nil || len(b) > 0 {
			t.Errorf("%q, %v", b, err)
		}
	}
	w.containers.Detached("gone", "")
	var got []string
	now := time.Now()
	past := w.send(fmt.Sprintf(`GET /events?since=1&until=%d.%09d&filters={"event":["detach","exec_detach"]}`, now.Unix(), now.Nanosecond()), "")
	for d := json.NewDecoder(strings.NewReader(past.body)); ; {
		var m events.Message
		if d.Decode(&m) != nil {
			break
		}
		got = append(got, string(m.Action)+m.Actor.Attributes["execID"])
	}
	if want := []string{"exec_detach" + made.ID, "detach"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// raw opens a connection and sends a request by hand.
func (w *world) raw(request string) (net.Conn, *bufio.Reader, *http.Response) {
	w.t.Helper()
	conn, err := net.Dial("unix", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		w.t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return conn, r, resp
}

// A client that does not ask for an upgrade gets docker's old answer; what it sends along with the request is input.
func TestAttachOld(t *testing.T) {
	w := serve(t)
	id := w.create(stdin(false), "cat")
	w.begin(id)
	conn, r, resp := w.raw("POST /v1.40/containers/" + id + "/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\nearly")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != types.MediaTypeRawStream {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "\x01\x00\x00\x00\x00\x00\x00\x05early" {
		t.Errorf("%q, %v", b, err)
	}
	_, _, resp = w.raw("POST /containers/none/attach?stream=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	if resp.StatusCode != 404 {
		t.Errorf("of none: %d", resp.StatusCode)
	}
}

// A client that goes without a word is noticed, though the process says nothing and the client had closed its side before.
func TestAttachGone(t *testing.T) {
	w := serve(t)
	id := w.create(worker.ContainerCreate{}, "sleep")
	w.begin(id)
	conn, _, _ := w.raw("POST /containers/" + id + "/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n := w.Busy(); n != 1 {
		t.Errorf("%d requests, want the one of a client that reads", n)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	for w.Busy() > 0 {
		time.Sleep(time.Millisecond) // until the kernel has told
	}
}

// What a client has sent before it went away arrives, also if the process says something that the client does not read; and
// then it is the end of the input.
func TestAttachSentAndGone(t *testing.T) {
	w := serve(t)
	for _, streams := range []string{"stdin=1", "stdin=1&stdout=1"} {
		id := w.create(stdin(false), "cat")
		w.begin(id)
		_, r, _ := w.raw("POST /containers/" + id + "/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n")
		conn, _, _ := w.raw("POST /containers/" + id + "/attach?stream=1&" + streams + " HTTP/1.1\r\nHost: d\r\n\r\n")
		want := strings.Repeat("some text\n", 10_000)
		if _, err := io.WriteString(conn, want); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		if _, err := stdcopy.StdCopy(&got, io.Discard, r); err != nil || got.String() != want {
			t.Errorf("%s: the process said %d bytes, want %d; %v", streams, got.Len(), len(want), err)
		}
	}
	for w.Busy() > 0 {
		time.Sleep(time.Millisecond) // until those who have gone are forgotten
	}
}

// Over a WebSocket there are no frames of Docker's, and one stream can be had.
func TestAttachWebSocket(t *testing.T) {
	w := serve(t)
	id := w.create(stdin(false), "cat")
	w.begin(id)
	dial := func(query string) (*websocket.Conn, error) {
		conf, err := websocket.NewConfig("ws://docker/containers/"+id+"/attach/ws?"+query, "http://docker")
		if err != nil {
			return nil, err
		}
		conn, err := net.Dial("unix", w.addr)
		if err != nil {
			return nil, err
		}
		return websocket.NewClient(conf, conn)
	}
	ws, err := dial("stream=1&stdin=1&stdout=1")
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if _, err := ws.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(ws, b); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	if err := w.containers.Kill(t.Context(), id, "KILL"); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(ws); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
	w.want("GET /containers/"+id+"/attach/ws", "", 400, "does not ask for a WebSocket")
	if _, err := dial("detachKeys=x,yy"); err == nil {
		t.Error("keys that there are not")
	}
}

// An exec is attached, framed, and has an exit code; one that cannot be executed says so in the stream.
func TestExec(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	id := w.create(worker.ContainerCreate{}, "sleep")
	if _, err := cli.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"true"}}); err == nil {
		t.Error("in a container that does not run")
	}
	w.begin(id)
	run := func(input string, tty bool, args ...string) (out string, code int) {
		t.Helper()
		made, err := cli.ExecCreate(ctx, id, client.ExecCreateOptions{
			Cmd: args, AttachStdout: true, AttachStderr: true, AttachStdin: input != "", TTY: tty,
		})
		if err != nil {
			t.Fatal(err)
		}
		att, err := cli.ExecAttach(ctx, made.ID, client.ExecAttachOptions{TTY: tty})
		if err != nil {
			t.Fatal(err)
		}
		defer att.Close()
		if _, err := io.WriteString(att.Conn, input); err != nil {
			t.Fatal(err)
		}
		if err := att.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		if tty {
			_, err = io.Copy(&all, att.Reader)
		} else {
			var errs strings.Builder
			_, err = stdcopy.StdCopy(&all, &errs, att.Reader)
			all.WriteString(errs.String())
		}
		if err != nil {
			t.Fatal(err)
		}
		for {
			got, err := cli.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !got.Running {
				return all.String(), got.ExitCode
			}
			time.Sleep(time.Millisecond) // the streams end a moment before the process is said to have
		}
	}
	for _, tt := range []struct {
		input string
		tty   bool
		args  []string
		out   string
		code  int
	}{
		{"", false, []string{"echo", "hi"}, "hi\n", 0},
		{"", false, []string{"complain", "oh"}, "oh\n", 0},
		{"", true, []string{"echo", "hi"}, "hi\n", 0},
		{"in", false, []string{"cat"}, "in", 0},
		{"", false, []string{"exit", "7"}, "", 7},
		{"", false, []string{"missing"}, "OCI runtime exec failed: exec: \"missing\": executable file not found in $PATH\r\n", 127},
	} {
		if out, code := run(tt.input, tt.tty, tt.args...); out != tt.out || code != tt.code {
			t.Errorf("%v: %q %d", tt.args, out, code)
		}
	}
	made, err := cli.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.ExecStart(ctx, made.ID, client.ExecStartOptions{Detach: true}); err != nil {
		t.Error(err)
	}
	w.want("POST /exec/none/start", "{}", 404, "No such exec instance")
	w.want("POST /containers/"+id+"/exec", "{}", 400, "No exec command specified")
	w.want("POST /containers/"+id+"/exec", `{"Cmd":["x"],"DetachKeys":"ctrl-"}`, 400, "invalid detach keys")
}

// The size of a terminal reaches the process; what is no size does not.
func TestResize(t *testing.T) {
	w := serve(t)
	id := w.create(stdin(true), "sizes", "2")
	w.begin(id)
	cli, ctx := w.client(), t.Context()
	att, err := cli.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer att.Close()
	for i := range 2 {
		if _, err := cli.ContainerResize(ctx, id, client.ContainerResizeOptions{Height: uint(24 + i), Width: 80}); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := io.ReadAll(att.Reader); err != nil || string(b) != "24 80\n25 80\n" {
		t.Errorf("%q, %v", b, err)
	}
	for _, q := range []string{"h=x&w=1", "h=1&w=70000", "h=-1&w=1"} {
		w.want("POST /containers/"+id+"/resize?"+q, "", 400, "invalid resize")
	}
}

// Keys are read as docker writes them.
func TestParseKeys(t *testing.T) {
	for in, want := range map[string]string{
		"": "\x10\x11", "ctrl-p,ctrl-q": "\x10\x11", "a": "a", "a,b": "ab", "ctrl-[": "\x1b", "ctrl-_,ctrl-\\": "\x1f\x1c", "DEL": "\x7f", "CTRL-A": "\x01",
	} {
		if got, err := parseKeys(in); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"ab", "ctrl-", "ctrl-1", "a,,b", ",", "ctrl-ab"} {
		if got, err := parseKeys(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// Whatever is typed, in whatever pieces: what comes before the keys is passed on, and nothing else.
func FuzzKeyReader(f *testing.F) {
	f.Add([]byte("abcab"), []byte("ab"), 1)
	f.Add([]byte("aab"), []byte("aab"), 2)
	f.Add([]byte("aaab"), []byte("aab"), 1)
	f.Add([]byte{16, 16, 17, 1}, []byte{16, 17}, 3)
	f.Fuzz(func(t *testing.T, in, keys []byte, size int) {
		if len(keys) == 0 || len(keys) > 8 || size < 1 || size > 64 {
			return
		}
		r := &keyReader{r: &pieces{in, size}, keys: keys}
		got, err := io.ReadAll(r)
		want, wantErr := in, error(nil)
		if i := bytes.Index(in, keys); i >= 0 {
			want, wantErr = in[:i], errDetached
		}
		if !bytes.Equal(got, want) || err != wantErr { //nolint:errorlint // it is returned bare
			t.Errorf("%q %q: %q %v, want %q %v", in, keys, got, err, want, wantErr)
		}
	})
}

// pieces reads at most so many bytes at a time.
type pieces struct {
	b    []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(p.size, len(p.b))])
	p.b = p.b[n:]
	return n, nil
}

// Attaching does not end with the request's context of one client when another is served: many at once get all that is
// said.
func TestAttachMany(t *testing.T) {
	w := serve(t)
	id := w.create(stdin(false), "cat")
	w.begin(id)
	cli := w.client()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all []client.ContainerAttachResult
	for range 20 {
		att, err := cli.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		defer att.Close()
		all = append(all, att)
	}
	in, err := cli.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		fmt.Fprintf(in.Conn, "line %d\n", i)
	}
	if err := in.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for i, att := range all {
		var out bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, io.Discard, att.Reader); err != nil || strings.Count(out.String(), "\n") != 100 {
			t.Errorf("client %d has %d lines, %v", i, strings.Count(out.String(), "\n"), err)
		}
	}
}
