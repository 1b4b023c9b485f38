package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// A blob reads as what it is, whatever the connection does meanwhile, as long as that ends some time.
func TestBlobSurvives(t *testing.T) {
	content := pattern(300_000)
	for _, tt := range []struct {
		name      string
		behaviour registrytest.Behaviour
		fault     registrytest.Fault
		gets      int
		ranges    []string
	}{
		{name: "nothing", gets: 1, ranges: []string{""}},
		{name: "a cut", fault: registrytest.Fault{CutAfter: 100_000, Times: 1}, gets: 2, ranges: []string{"", "bytes=100000-"}},
		{
			name: "two cuts", fault: registrytest.Fault{CutAfter: 90_000, Times: 2}, gets: 3,
			ranges: []string{"", "bytes=90000-", "bytes=180000-"},
		},
		{name: "a stall", fault: registrytest.Fault{StallAfter: 100_000, Times: 1}, gets: 2, ranges: []string{"", "bytes=100000-"}},
		{name: "no ranges", behaviour: registrytest.Behaviour{NoRange: true}, fault: registrytest.Fault{CutAfter: 100_000, Times: 1}, gets: 2},
		{name: "no length", behaviour: registrytest.Behaviour{NoLength: true}, gets: 1},
		{name: "no answer", fault: registrytest.Fault{Drop: true, Times: 2}, gets: 3},
		{name: "bad gateway", fault: registrytest.Fault{Status: 502, Times: 3}, gets: 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			setUp := func(w *world) { w.reg.Behaviour = tt.behaviour }
			inWorld(t, setUp, func(ctx context.Context, w *world) {
				d := w.putBlob(content)
				if tt.fault != (registrytest.Fault{}) {
					tt.fault.Kind = registrytest.Blob
					w.reg.Fail(tt.fault)
				}
				got, err := w.readBlob(ctx, d)
				if err != nil || !bytes.Equal(got, content) {
					t.Fatalf("got %d bytes, %v", len(got), err)
				}
				if n := w.reg.Count("GET", registrytest.Blob); n != tt.gets {
					t.Errorf("%d requests, want %d", n, tt.gets)
				}
				for i, want := range tt.ranges {
					if got := w.reg.Requests()[i].Range; got != want {
						t.Errorf("request %d asks for range %q, want %q", i, got, want)
					}
				}
			})
		})
	}
}

// errBroken stands for any *transportError in tables.
var errBroken = errors.New("a broken connection")

// What is not the blob is an error before its last byte is handed out, also for a reader that counts bytes.
func TestBlobRefuses(t *testing.T) {
	content := pattern(5000)
	for _, tt := range []struct {
		name  string
		fault registrytest.Fault
		desc  func(*Descriptor)
		want  error
	}{
		{name: "a changed byte", fault: registrytest.Fault{Corrupt: true}, want: ErrDigest},
		{name: "fewer bytes than described", desc: func(d *Descriptor) { d.Size++ }, want: ErrDigest},
		{name: "more bytes than described", desc: func(d *Descriptor) { d.Size-- }, want: ErrDigest},
		{name: "a blob that is not there", desc: func(d *Descriptor) { d.Digest = SumDigest(nil) }, want: ErrNotFound},
		{name: "a connection that never gets on", fault: registrytest.Fault{CutAfter: 1}, want: errBroken},
		{name: "no permission", fault: registrytest.Fault{Status: 403, Code: "DENIED"}, want: ErrUnauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, nil, func(ctx context.Context, w *world) {
				d := w.putBlob(content)
				tt.fault.Kind = registrytest.Blob
				if tt.fault != (registrytest.Fault{Kind: registrytest.Blob}) {
					w.reg.Fail(tt.fault)
				}
				if tt.desc != nil {
					tt.desc(&d)
				}
				r, err := w.c.Blob(ctx, repoAt(testHost), d)
				if err == nil {
					_, err = io.ReadFull(r, make([]byte, d.Size))
					r.Close()
				}
				var broken *transportError
				if !errors.Is(err, tt.want) && (!errors.Is(tt.want, errBroken) || !errors.As(err, &broken)) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if err != nil && !strings.Contains(err.Error(), "pulling registry.test/team/app@sha256:") {
					t.Errorf("the error does not say what was being done: %v", err)
				}
			})
		})
	}
}

// A server that answers a request for the rest with another range is not believed, though the length would do.
func TestBlobWrongRange(t *testing.T) {
	for _, got := range []string{"bytes 0-9/100", "bytes 91-100/101", "bytes */100", ""} {
		setUp := func(w *world) {
			w.net.HTTP("localhost:80", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Range", got)
				rw.WriteHeader(http.StatusPartialContent)
				rw.Write(make([]byte, 10))
			}))
		}
		inWorld(t, setUp, func(ctx context.Context, w *world) {
			var dst memSink
			dst.Write(make([]byte, 90))
			err := w.c.FetchBlob(ctx, repoAt("localhost"), describeBytes(make([]byte, 100)), &dst)
			if !errors.Is(err, ErrDigest) {
				t.Errorf("%q: got %v", got, err)
			}
		})
	}
}

// A blob without a Content-Length that goes on after its end is still the blob: only its own bytes are read.
func TestBlobWithoutLengthAndWithMore(t *testing.T) {
	setUp := func(w *world) { w.reg.NoLength = true }
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		d := w.putBlob(pattern(5000))
		d.Size, d.Digest = 4000, SumDigest(pattern(5000)[:4000])
		w.reg.PutBlob("team/app", pattern(5000)[:4000])
		got, err := w.readBlob(ctx, d)
		if err != nil || len(got) != 4000 {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	})
}

// Slow readers are nobody's fault: a pause between reads is no stall.
func TestBlobSlowReader(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		d := w.putBlob(pattern(1_000_000))
		r, err := w.c.Blob(ctx, w.overHTTP1(), d)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.CopyN(io.Discard, r, 10); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n, err := io.Copy(io.Discard, r); err != nil || n != 999_990 {
			t.Errorf("got %d bytes, %v", n, err)
		}
		if n := w.reg.Count("GET", registrytest.Blob); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

// A connection is used again after a blob was read, whether or not its length was known, by readers that ask for the
// blob's bytes and no more.
func TestBlobKeepsConnection(t *testing.T) {
	for _, noLength := range []bool{false, true} {
		setUp := func(w *world) { w.reg.NoLength = noLength }
		inWorld(t, setUp, func(ctx context.Context, w *world) {
			repo, d := w.overHTTP1(), w.putBlob(pattern(5000))
			for range 5 {
				r, err := w.c.Blob(ctx, repo, d)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(r, make([]byte, d.Size)); err != nil {
					t.Fatal(err)
				}
				r.Close()
			}
			if n := w.net.Dials("localhost:80"); n != 1 {
				t.Errorf("no length %v: %d connections for five blobs", noLength, n)
			}
		})
	}
}

// No more than MaxConcurrency blobs are open at once; a blob that was read gives its place up without being closed, and
// a caller that waits for a place can leave.
func TestBlobSlots(t *testing.T) {
	setUp := func(w *world) { w.opts.MaxConcurrency = 2 }
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		d := w.putBlob(pattern(100))
		var open []io.ReadCloser
		for range 2 {
			r, err := w.c.Blob(ctx, repoAt(testHost), d)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, r)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := w.c.Blob(short, repoAt(testHost), d); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a third blob: got %v", err)
		}
		if _, err := io.Copy(io.Discard, open[0]); err != nil {
			t.Fatal(err)
		}
		open[1].Close()
		open[1].Close()
		for range 3 {
			if _, err := w.readBlob(ctx, d); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Cancelling the context ends a read that waits, at once.
func TestBlobCancel(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		d := w.putBlob(pattern(5000))
		w.reg.Fail(registrytest.Fault{Kind: registrytest.Blob, StallAfter: 100})
		ctx, cancel := context.WithCancelCause(ctx)
		r, err := w.c.Blob(ctx, repoAt(testHost), d)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		why := errors.New("enough")
		start := time.Now()
		time.AfterFunc(time.Second, func() { cancel(why) })
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, why) {
			t.Errorf("got %v, want %v", err, why)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// A trace sees a blob's bytes come in, and why something was tried again.
func TestTrace(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		d := w.putBlob(pattern(200_000))
		w.reg.Fail(registrytest.Fault{Kind: registrytest.Blob, Status: 503, Times: 1})
		var last, retries int64
		ctx = WithTrace(ctx, &Trace{
			Bytes: func(_ v1.Hash, done, total int64) {
				if done < last || total != d.Size {
					t.Errorf("%d of %d bytes after %d", done, total, last)
				}
				last = done
			},
			Retry: func(err error, failures int, _ time.Duration) {
				retries++
				if failures != 1 || !strings.Contains(err.Error(), "503") {
					t.Errorf("retry after %d failures, the last %v", failures, err)
				}
			},
		})
		inner := int64(0)
		ctx = WithTrace(ctx, &Trace{Bytes: func(_ v1.Hash, done, _ int64) { inner = done }})
		if _, err := w.readBlob(ctx, d); err != nil {
			t.Fatal(err)
		}
		if inner != d.Size {
			t.Errorf("the inner trace saw %d of %d bytes", inner, d.Size)
		}
		if last != d.Size || retries != 1 {
			t.Errorf("saw %d of %d bytes, and %d retries", last, d.Size, retries)
		}
	})
}

// ReadBlob returns small blobs and refuses large ones before it asks for them.
func TestReadBlob(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		d := w.putBlob([]byte("{}"))
		b, err := w.c.ReadBlob(ctx, repoAt(testHost), d, 2)
		if err != nil || string(b) != "{}" {
			t.Errorf("got %q, %v", b, err)
		}
		w.reg.Forget()
		if _, err := w.c.ReadBlob(ctx, repoAt(testHost), d, 1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("over the limit: %v", err)
		}
		if n := w.reg.Count("", ""); n != 0 {
			t.Errorf("%d requests for a blob that is too large", n)
		}
	})
}
