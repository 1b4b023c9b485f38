package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func descOf(b []byte) Descriptor {
	return Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// files returns every regular file below the store, relative to its directory.
func files(t *testing.T, s *Store) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(s.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(s.dir, p)
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What is ingested is read back the same, under either algorithm, with the digest and size known, half known or unknown.
func TestIngest(t *testing.T) {
	data := []byte(strings.Repeat("blob ", 100_000))
	sum := digest.FromBytes(data)
	for _, tt := range []struct {
		name string
		want Descriptor
		got  digest.Digest
	}{
		{"unknown", Descriptor{}, sum},
		{"known", descOf(data), sum},
		{"size unknown", Descriptor{Digest: sum, Size: UnknownSize}, sum},
		{"size only", Descriptor{Size: int64(len(data))}, sum},
		{"sha512", Descriptor{Digest: digest.SHA512.FromBytes(data), Size: int64(len(data))}, digest.SHA512.FromBytes(data)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			desc, err := s.Ingest(t.Context(), iotest.HalfReader(bytes.NewReader(data)), tt.want)
			if err != nil {
				t.Fatal(err)
			}
			if desc.Digest != tt.got || desc.Size != int64(len(data)) {
				t.Errorf("got %v %d, want %v %d", desc.Digest, desc.Size, tt.got, len(data))
			}
			got, err := s.ReadAll(tt.got, 1<<20)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("ReadAll: %d bytes, %v", len(got), err)
			}
			if f := files(t, s); len(f) != 1 {
				t.Errorf("files %v, want the blob alone", f)
			}
		})
	}
}

// Wrong bytes never become a blob, and leave nothing behind.
func TestIngestWrong(t *testing.T) {
	data := []byte("hello")
	broken := errors.New("broken")
	for _, tt := range []struct {
		name string
		r    io.Reader
		want Descriptor
		err  error
	}{
		{"digest", bytes.NewReader([]byte("jello")), descOf(data), ErrDigest},
		{"short", bytes.NewReader(data[:3]), descOf(data), ErrSize},
		{"long", bytes.NewReader([]byte("hello world")), descOf(data), ErrSize},
		{"endless", neverEnding('x'), descOf(data), ErrSize},
		{"size", bytes.NewReader(data), Descriptor{Size: 4}, ErrSize},
		{"sha512", bytes.NewReader(data), Descriptor{Digest: digest.SHA512.FromString("x"), Size: UnknownSize}, ErrDigest},
		{"read error", iotest.ErrReader(broken), descOf(data), broken},
		{"bad digest", bytes.NewReader(data), Descriptor{Digest: "sha256:../../x", Size: 5}, digest.ErrDigestInvalidFormat},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			if _, err := s.Ingest(t.Context(), tt.r, tt.want); !errors.Is(err, tt.err) {
				t.Errorf("got error %v, want %v", err, tt.err)
			}
			if f := files(t, s); len(f) != 0 {
				t.Errorf("left %v", f)
			}
		})
	}
}

type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

// Digest strings from outside are refused before they are joined to a path (CVE-2024-3727): no method touches a file
// outside the store, whatever it is given.
func TestHostileDigests(t *testing.T) {
	root := t.TempDir()
	s, err := Open(filepath.Join(root, "store"))
	if err != nil {
		t.Fatal(err)
	}
	canary := filepath.Join(root, "canary")
	if err := os.WriteFile(canary, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	hex := strings.Repeat("a", 64)
	for _, d := range []digest.Digest{
		"", "sha256", "sha256:", "sha256:../../../canary", digest.Digest("sha256:" + hex[1:]), digest.Digest("sha256:" + hex + "a"),
		digest.Digest("SHA256:" + hex), digest.Digest("sha256:" + strings.ToUpper(hex)), digest.Digest("sha1:" + hex[:40]),
		digest.Digest("sha384:" + hex + hex[:32]), digest.Digest("sha512:" + hex), digest.Digest("sha256:" + hex[:63] + "/"),
		digest.Digest("sha256:" + hex[:63] + "\x00"), digest.Digest("../sha256:" + hex), digest.Digest("sha256+b64:" + hex),
		digest.Digest("sha256:" + hex[:62] + ".."), digest.Digest(strings.Repeat("x", 1<<20)),
	} {
		if Validate(d) == nil {
			t.Errorf("Validate(%.80q) = nil", d)
		}
		_, oerr := s.Open(d)
		_, serr := s.Stat(d)
		_, rerr := s.Resume(t.Context(), Descriptor{Digest: d, Size: 1})
		_, ierr := s.Ingest(t.Context(), strings.NewReader("x"), Descriptor{Digest: d, Size: 1})
		errs := []error{oerr, serr, rerr, s.Delete(d), s.Sync(d)}
		if d != "" { // Ingest computes an empty one
			errs = append(errs, ierr)
		}
		for i, err := range errs {
			if err == nil {
				t.Errorf("call %d with %.80q succeeded", i, d)
			} else if len(err.Error()) > 1000 {
				t.Errorf("call %d with %.80q has an error of %d bytes", i, d, len(err.Error()))
			}
		}
	}
	if b, err := os.ReadFile(canary); err != nil || string(b) != "x" {
		t.Errorf("canary is %q, %v", b, err)
	}
}

// A reader of damaged bytes ends in ErrDigest, never in EOF; Check finds and deletes the blob.
func TestDamage(t *testing.T) {
	s := open(t)
	desc, err := s.Put("", []byte("precious"), true)
	if err != nil {
		t.Fatal(err)
	}
	good, err := s.Put("", []byte("other"), false)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := s.Path(desc.Digest)
	if err := os.Chmod(p, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("precioux"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAll(desc.Digest, 100); !errors.Is(err, ErrDigest) {
		t.Errorf("reading: %v, want ErrDigest", err)
	}
	if bad, err := s.Check(t.Context(), time.Now().Add(time.Hour)); err != nil || len(bad) != 0 {
		t.Errorf("Check of younger ones: %v, %v", bad, err)
	}
	bad, err := s.Check(t.Context(), time.Time{})
	if err != nil || len(bad) != 1 || bad[0] != desc.Digest {
		t.Errorf("Check: %v, %v", bad, err)
	}
	if _, err := s.Stat(desc.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("after Check: %v, want ErrNotFound", err)
	}
	if !s.Has(good) {
		t.Error("Check deleted a good blob")
	}
}

// A download that stops goes on where it stopped, also in another process; the digest covers all of it.
func TestResume(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	desc := descOf(data)
	dir := t.TempDir()
	for i := 0; i < 4; i++ {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Resume(t.Context(), desc)
		if err != nil {
			t.Fatal(err)
		}
		if w.Offset() != int64(i*2500) {
			t.Fatalf("round %d: offset %d", i, w.Offset())
		}
		if _, err := w.Commit(Descriptor{}); !errors.Is(err, ErrSize) {
			t.Errorf("commit of %d bytes: %v, want ErrSize", w.Offset(), err)
		}
		if _, err := w.Write(data[w.Offset() : w.Offset()+2500]); err != nil {
			t.Fatal(err)
		}
		if i == 3 {
			if _, err := w.Write([]byte("x")); !errors.Is(err, ErrSize) {
				t.Errorf("writing too much: %v, want ErrSize", err)
			}
			if _, err := w.Commit(Descriptor{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := Open(dir)
	if _, err := s.Resume(t.Context(), desc); !errors.Is(err, ErrExists) {
		t.Errorf("resuming what exists: %v, want ErrExists", err)
	}
	if got, err := s.ReadAll(desc.Digest, 1<<20); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// A download of wrong bytes starts over.
func TestResumeWrong(t *testing.T) {
	s := open(t)
	desc := descOf([]byte("right"))
	for _, text := range []string{"wrong", "right"} {
		w, err := s.Resume(t.Context(), desc)
		if err != nil {
			t.Fatal(err)
		}
		if w.Offset() != 0 {
			t.Errorf("%s: offset %d", text, w.Offset())
		}
		io.WriteString(w, text[:3])
		w.Reset() // a server without ranges
		io.WriteString(w, text)
		_, err = w.Commit(Descriptor{})
		if want := text == "right"; (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
		w.Close()
	}
}

// One blob is downloaded by one writer at a time; who waits finds it there, or goes on with it; cancelling ends the wait.
func TestResumeConcurrent(t *testing.T) {
	s := open(t)
	data := bytes.Repeat([]byte("x"), 10_000)
	desc := descOf(data)
	first, err := s.Resume(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Resume(ctx, desc); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled wait: %v", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		wg.Go(func() {
			w, err := s.Resume(t.Context(), desc)
			if err == nil {
				w.Close()
			}
			errs[i] = err
		})
	}
	first.Write(data)
	if _, err := first.Commit(Descriptor{}); err != nil {
		t.Error(err)
	}
	first.Close()
	wg.Wait()
	for _, err := range errs {
		if !errors.Is(err, ErrExists) {
			t.Errorf("waiter got %v, want ErrExists", err)
		}
	}
}

// Opening sweeps temporary files at once, partial ones when they are old, and blobs never.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := s.Put("", []byte("kept"), false)
	w, _ := s.Create()
	io.WriteString(w, "half") // and the process dies
	for text, age := range map[string]time.Duration{"old": PartialAge + time.Hour, "young": time.Hour} {
		p, err := s.Resume(t.Context(), descOf([]byte(text)))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(p, text[:1])
		when := time.Now().Add(-age)
		if err := os.Chtimes(p.f.Name(), when, when); err != nil {
			t.Fatal(err)
		}
	}
	s, err = Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := files(t, s); len(got) != 2 {
		t.Errorf("left %v, want a blob and a partial file", got)
	}
	if !s.Has(kept) {
		t.Error("blob swept")
	}
	y, err := s.Resume(t.Context(), descOf([]byte("young")))
	if err != nil || y.Offset() != 1 {
		t.Errorf("young partial file: %v", err)
	}
	y.Close()
}

// Blobs can be listed and deleted, and deleting twice is no error.
func TestAllDelete(t *testing.T) {
	s := open(t)
	want := map[digest.Digest]bool{}
	for _, text := range []string{"a", "b", "c"} {
		d, err := s.Put("", []byte(text), false)
		if err != nil {
			t.Fatal(err)
		}
		want[d.Digest] = true
	}
	os.WriteFile(filepath.Join(s.dir, "sha256", "README"), nil, 0o600) // not a blob
	for info, err := range s.All(t.Context()) {
		if err != nil || !want[info.Digest] || info.Size != 1 {
			t.Errorf("got %v, %v", info, err)
		}
		delete(want, info.Digest)
		for range 2 {
			if err := s.Delete(info.Digest); err != nil {
				t.Error(err)
			}
		}
	}
	if len(want) != 0 {
		t.Errorf("not listed: %v", want)
	}
	if _, err := s.Open(digest.FromString("a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("opening a deleted blob: %v", err)
	}
	if err := s.Sync(digest.FromString("a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("syncing a deleted blob: %v", err)
	}
}

// Verify passes right bytes through and never says EOF for others, however the reader cuts them.
func TestVerify(t *testing.T) {
	data := []byte("some bytes to verify")
	for _, tt := range []struct {
		name string
		in   string
		desc Descriptor
		err  error
	}{
		{"right", string(data), descOf(data), nil},
		{"size unknown", string(data), Descriptor{Digest: digest.FromBytes(data), Size: UnknownSize}, nil},
		{"short", "some", descOf(data), ErrSize},
		{"long", string(data) + "!", descOf(data), ErrSize},
		{"other", "Some bytes to verify", descOf(data), ErrDigest},
	} {
		for _, cut := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader, func(r io.Reader) io.Reader { return r }} {
			got, err := io.ReadAll(Verify(cut(strings.NewReader(tt.in)), tt.desc))
			if !errors.Is(err, tt.err) {
				t.Errorf("%s: got %v, want %v", tt.name, err, tt.err)
			}
			if len(got) > len(data) {
				t.Errorf("%s: %d bytes came through", tt.name, len(got))
			}
		}
	}
}

func BenchmarkIngest(b *testing.B) {
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 64<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := s.Ingest(b.Context(), bytes.NewReader(data), Descriptor{}); err != nil {
			b.Fatal(err)
		}
	}
}
