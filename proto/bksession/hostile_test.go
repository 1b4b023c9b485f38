package bksession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/boxbuild/boxbuild/proto/filesync"
)

// A script is what a client does that keeps to no rules: it sends and receives messages of its choice.
type script func(stream grpc.ServerStream) error

// scripted opens a session whose client does, when the method is called, what play says.
func scripted(t testing.TB, m *Manager, method string, play script) *Session {
	t.Helper()
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	server := grpc.NewServer(grpc.ForceServerCodecV2(codec{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: name, ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			return play(s)
		}}},
	}, nil)
	ours, theirs := socketpair(t)
	done := make(chan struct{}, 2)
	go func() {
		(&http2.Server{}).ServeConn(theirs, &http2.ServeConnOpts{Handler: server})
		done <- struct{}{}
	}()
	go func() {
		_ = m.Serve(context.Background(), ours, headersOf("hostile", method))
		done <- struct{}{}
	}()
	t.Cleanup(func() {
		_ = theirs.Close()
		server.Stop()
		<-done
		<-done
	})
	s, err := m.Get(context.Background(), "hostile")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// stat is the message that lists a file of a client's.
func stat(path string, mode fs.FileMode, size int64, link string) raw {
	st := appendText(nil, statPath, path)
	st = appendNumber(st, statMode, uint64(uint32(mode)))
	st = appendNumber(st, statSize, uint64(size))
	st = appendNumber(st, statMTime, 1_700_000_000_000_000_001)
	st = appendText(st, statLink, link)
	return protowire.AppendBytes(protowire.AppendTag(nil, fieldStat, protowire.BytesType), st)
}

func data(id uint32, text string) raw { return newPacket(packetData, id, []byte(text)) }

// says sends messages and then waits for the end of the stream.
func says(ms ...raw) script {
	return func(s grpc.ServerStream) error {
		for i := range ms {
			if err := s.SendMsg(&ms[i]); err != nil {
				return err
			}
		}
		var m raw
		for {
			if err := s.RecvMsg(&m); err != nil {
				return err
			}
		}
	}
}

// Whatever a client sends that no directory can contain is an error that names the path, and nothing is written but what
// the store names by itself.
func TestHostile(t *testing.T) {
	long := strings.Repeat("d/", 3000) + "f"
	for _, tc := range []struct {
		name string
		play script
		want string // in the error
	}{
		{"parent", says(stat("../x", 0o644, 1, "")), `"../x"`},
		{"parent inside", says(stat("a", fs.ModeDir|0o755, 0, ""), stat("a/../../x", 0o644, 1, "")), `"a/../../x"`},
		{"dot", says(stat(".", 0o644, 1, "")), `"."`},
		{"dots", says(stat("..", fs.ModeDir|0o755, 0, "")), `".."`},
		{"empty", says(stat("", 0o644, 1, "")), `""`},
		{"absolute", says(stat("/etc/passwd", 0o644, 1, "")), `"/etc/passwd"`},
		{"slash at the end", says(stat("a", fs.ModeDir|0o755, 0, ""), stat("a/", 0o644, 1, "")), `"a/"`},
		{"two slashes", says(stat("a", fs.ModeDir|0o755, 0, ""), stat("a//b", 0o644, 1, "")), `"a//b"`},
		{"NUL", says(stat("a\x00b", 0o644, 1, "")), `"a\x00b"`},
		{"long name", says(stat(strings.Repeat("n", 256), 0o644, 1, "")), "nnn"},
		{"deep", says(stat(long, 0o644, 1, "")), `"d/d/`},
		{"duplicate", says(stat("a", 0o644, 0, ""), stat("a", 0o644, 0, "")), `"a"`},
		{"duplicate directory", says(stat("a", fs.ModeDir|0o755, 0, ""), stat("a/b", 0o644, 0, ""), stat("a", fs.ModeDir|0o755, 0, "")), `"a"`},
		{"unsorted", says(stat("b", 0o644, 0, ""), stat("a", 0o644, 0, "")), `"a"`},
		{"without parent", says(stat("a/b", 0o644, 1, "")), `"a/b"`},
		{"parent too late", says(stat("a", fs.ModeDir|0o755, 0, ""), stat("b", 0o644, 0, ""), stat("a/c", 0o644, 0, "")), `"a/c"`},
		{"below a file", says(stat("a", 0o644, 0, ""), stat("a/b", 0o644, 1, "")), `"a/b"`},
		{"below a symlink", says(stat("a", fs.ModeSymlink|0o777, 0, "/etc"), stat("a/passwd", 0o644, 1, "")), `"a/passwd"`},
		{"symlink to nothing", says(stat("a", fs.ModeSymlink|0o777, 0, "")), `"a"`},
		{"symlink too long", says(stat("a", fs.ModeSymlink|0o777, 0, strings.Repeat("l", 5000))), `"a"`},
		{"hard link to nothing", says(stat("a", 0o644, 0, "b")), `"b"`},
		{"hard link outside", says(stat("a", 0o644, 0, "../../etc/passwd")), `passwd"`},
		{"hard link to a directory", says(stat("a", fs.ModeDir|0o755, 0, ""), stat("b", 0o644, 0, "a")), `"b"`},
		{"hard link to itself", says(stat("a", 0o644, 0, "a")), `"a"`},
		{"irregular", says(stat("a", fs.ModeIrregular, 0, "")), `"a"`},
		{"negative size", says(stat("a", 0o644, -1, "")), `"a"`},
		{"huge", says(stat("a", 0o644, 1<<62, "")), `"/a"`},
		{"huge together", says(stat("a", 0o644, 1<<39, ""), stat("b", 0o644, 1<<39, ""), stat("c", 0o644, 1, "")), `"/c"`},
		{"too short", says(stat("a", 0o644, 5, ""), raw{}, data(0, "four"), data(0, "")), `"/a"`},
		{"too long", says(stat("a", 0o644, 3, ""), raw{}, data(0, "four"), data(0, "")), `"/a"`},
		{"too long, big", says(stat("a", 0o644, 100_000, ""), raw{}, data(0, strings.Repeat("x", 100_001)), data(0, "")), `"/a"`},
		{"nothing", says(stat("a", 0o644, 3, ""), raw{}, data(0, "")), `"/a"`},
		{"not asked for", says(stat("a", fs.ModeDir|0o755, 0, ""), data(0, "x")), `"a"`},
		{"after its end", says(stat("a", 0o644, 1, ""), data(0, "x"), data(0, ""), data(0, "x")), `"a"`},
		{"not listed", says(data(7, "x")), "file 7"},
		{"list goes on", says(raw{}, raw{}), "after the end"},
		{"early fin", says(stat("a", 0o644, 1, ""), newPacket(packetFin, 0, nil)), "before everything"},
		{"endless fin", says(raw{}, newPacket(packetFin, 0, nil), newPacket(packetFin, 0, nil)), "twice"},
		{"request", says(newPacket(packetReq, 0, nil)), "kind 1"},
		{"unknown kind", says(newPacket(99, 0, nil)), "kind 99"},
		{"garbage", says(raw("\xff\xff\xff")), "malformed"},
		{"error", says(newPacket(packetErr, 0, []byte("no\x1b[2Jway"))), "no?[2Jway"},
		{"gone", func(grpc.ServerStream) error { return nil }, "unexpected EOF"},
		{"endless", func(s grpc.ServerStream) error {
			for i := 0; ; i++ {
				m := stat(fmt.Sprintf("%09d", i), 0o644, 0, "")
				if err := s.SendMsg(&m); err != nil {
					return err
				}
			}
		}, "1000 files"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			store, err := filesync.NewStore(filepath.Join(dir, "store"), 0)
			if err != nil {
				t.Fatal(err)
			}
			m := New(Options{Store: store, Limits: filesync.RemoteOptions{MaxEntries: 1000}})
			src, err := scripted(t, m, methodDiffCopy, tc.play).Directory(context.Background(), "context")
			if err != nil {
				t.Fatal(err)
			}
			_, err = src.Tree(context.Background(), filesync.Selection{})
			if err = errors.Join(err, src.Close()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %s", err, tc.want)
			}
			if err == nil || !strings.Contains(err.Error(), `"context"`) || !strings.Contains(err.Error(), "hostile") || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v, want one that names directory and session, and no key", err)
			}
			if err := store.Close(); err != nil {
				t.Error(err)
			}
			checkStore(t, dir)
		})
	}
}

// checkStore checks that below dir there is nothing but a store without anything half-received.
func checkStore(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		parts := strings.Split(rel, "/")
		switch {
		case err != nil:
			return err
		case len(parts) == 3 && parts[0] == "store" && (parts[1] == "files" || parts[1] == "stats") && d.Type().IsRegular():
		case len(parts) < 3 && parts[0] == "store", rel == ".":
		default:
			t.Errorf("%s was left", rel)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Names that are no UTF-8, attributes that belong to the machine, and owners are no reason to refuse a tree.
func TestUnusual(t *testing.T) {
	st := appendText(nil, statPath, "a\xff")
	st = appendNumber(st, statMode, 0o644)
	st = appendNumber(st, 3, 1000)
	for _, k := range []string{"security.selinux", "user.x"} {
		st = protowire.AppendBytes(protowire.AppendTag(st, statXattr, protowire.BytesType), appendText(appendText(nil, 1, k), 2, "v"))
	}
	play := func(stream grpc.ServerStream) error {
		first := raw(protowire.AppendBytes(protowire.AppendTag(nil, fieldStat, protowire.BytesType), st))
		end, fin := raw{}, newPacket(packetFin, 0, nil)
		var m raw
		for _, err := range []error{stream.SendMsg(&first), stream.SendMsg(&end), stream.RecvMsg(&m), stream.SendMsg(&fin)} {
			if err != nil {
				return err
			}
		}
		return nil
	}
	src, err := scripted(t, New(patient(t)), methodDiffCopy, play).Directory(context.Background(), "context")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	e, err := tree(t, src, filesync.Selection{}).Lookup(context.Background(), "/a\xff")
	if err != nil {
		t.Fatal(err)
	}
	if e.UID != 0 || len(e.Xattr) != 1 || string(e.Xattr["user.x"]) != "v" {
		t.Errorf("got %+v", e)
	}
}

// What the client sends and was not asked for is left out, links to it included.
func TestSelectedHereToo(t *testing.T) {
	play := func(stream grpc.ServerStream) error {
		ms := []raw{
			stat("drop", fs.ModeDir|0o755, 0, ""), stat("drop/f", 0o644, 1, ""), stat("keep", 0o644, 1, ""), stat("link", 0o644, 0, "drop/f"), stat("other", 0o644, 1, ""), {},
		}
		for i := range ms {
			if err := stream.SendMsg(&ms[i]); err != nil {
				return err
			}
		}
		var m raw
		for {
			if err := stream.RecvMsg(&m); err != nil {
				return err
			}
			p, err := parsePacket(m)
			if err != nil {
				return err
			}
			answer := []raw{data(p.id, "x"), data(p.id, "")}
			if p.kind == packetFin {
				answer = []raw{newPacket(packetFin, 0, nil)}
			}
			for i := range answer {
				if err := stream.SendMsg(&answer[i]); err != nil || p.kind == packetFin {
					return err
				}
			}
		}
	}
	src, err := scripted(t, New(patient(t)), methodDiffCopy, play).Directory(context.Background(), "context")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	tr := tree(t, src, filesync.Selection{Include: []string{"keep", "link", "drop"}, Exclude: []string{"drop"}})
	if got := show(t, tr); strings.Count(got, "\n") != 2 || !strings.Contains(got, "/keep ") || !strings.Contains(got, "/link ") {
		t.Errorf("the tree has\n%s, want keep and link", got)
	}
}

// FuzzReceive has a client send any bytes for messages: the transfer ends, with a tree or an error, and the store stays one.
func FuzzReceive(f *testing.F) {
	for _, ms := range [][]raw{
		{stat("a", 0o644, 1, ""), {}, data(0, "x"), data(0, ""), newPacket(packetFin, 0, nil)},
		{stat("a", fs.ModeDir|0o755, 0, ""), stat("a/b", fs.ModeSymlink|0o777, 0, "c"), {}, newPacket(packetFin, 0, nil)},
		{stat("a", 0o644, 0, ""), stat("b", 0o644, 0, "a"), {}, newPacket(packetErr, 0, []byte("no"))},
	} {
		var all []byte
		for _, m := range ms {
			all = protowire.AppendBytes(all, m)
		}
		f.Add(all)
	}
	dir := f.TempDir()
	store, err := filesync.NewStore(filepath.Join(dir, "store"), 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, all []byte) {
		in, err := store.Intake(context.Background(), filesync.IntakeRequest{Limits: filesync.RemoteOptions{MaxEntries: 1000, MaxBytes: 1 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		stream := &bytesStream{ctx: t.Context(), left: all}
		r := &receiver{stream: stream, in: in, pending: map[uint32]*filesync.IncomingFile{}, wake: make(chan struct{}, 1)}
		if err = r.run(func() {}); err == nil {
			tr, release, err := in.Tree()
			if err == nil {
				show(t, tr)
				release()
			}
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		checkStore(t, dir)
	})
}

// A bytesStream is a stream of messages that are cut out of bytes. What is sent on it is lost.
type bytesStream struct {
	grpc.ClientStream
	ctx  context.Context //nolint:containedctx // what Context returns
	left []byte
}

func (s *bytesStream) Context() context.Context { return s.ctx }
func (s *bytesStream) SendMsg(any) error        { return nil }
func (s *bytesStream) CloseSend() error         { return nil }

func (s *bytesStream) RecvMsg(m any) error {
	b, n := protowire.ConsumeBytes(s.left)
	if n < 0 {
		return io.EOF
	}
	s.left = s.left[n:]
	*m.(*raw) = append((*m.(*raw))[:0], b...)
	return nil
}
