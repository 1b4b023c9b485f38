package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
)

// mixed returns n bytes of which some compress well, some badly and some not at all.
func mixed(n int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 0, n+1000)
	for len(b) < n {
		switch r.IntN(3) {
		case 0:
			b = append(b, bytes.Repeat([]byte{byte(r.IntN(256))}, r.IntN(200_000))...)
		case 1:
			for range r.IntN(20_000) {
				b = fmt.Appendf(b, "%d ", r.IntN(1000))
			}
		case 2:
			for range r.IntN(10_000) {
				b = append(b, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()))
			}
		}
	}
	return b[:n]
}

func compress(t testing.TB, c *Compressor, b []byte, f Compression, level int) []byte {
	t.Helper()
	var out bytes.Buffer
	n, err := c.Compress(t.Context(), &out, iotest.HalfReader(bytes.NewReader(b)), f, level)
	if err != nil || n != int64(len(b)) {
		t.Fatalf("%s %d: %d of %d bytes, %v", f, level, n, len(b), err)
	}
	return out.Bytes()
}

// What is compressed comes back, at every size about a block's and at every level.
func TestCompressRoundTrip(t *testing.T) {
	c := NewCompressor(3)
	data := mixed(2*zstdBlock + 100)
	for _, f := range []Compression{Gzip, Zstd, Uncompressed} {
		for _, n := range []int{0, 1, 1000, gzipBlock - 1, gzipBlock, gzipBlock + 1, 2 * gzipBlock, zstdBlock, 2*zstdBlock + 100} {
			out := compress(t, c, data[:n], f, 0)
			r, got, err := Decompress(bytes.NewReader(out))
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, data[:n]) {
				t.Errorf("%s of %d bytes: %d came back, %v", f, n, len(b), err)
			}
			r.Close()
			if got != f && n > 0 && f != Uncompressed {
				t.Errorf("%s of %d bytes is detected as %s", f, n, got)
			}
		}
	}
	data = data[:gzipBlock+1]
	for level := 1; level <= 9; level++ {
		r, _, err := Decompress(bytes.NewReader(compress(t, c, data, Gzip, level)))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, data) {
			t.Errorf("level %d: %v", level, err)
		}
	}
	if _, err := c.NewWriter(t.Context(), io.Discard, Gzip, 10); err == nil {
		t.Error("gzip level 10 accepted")
	}
	if _, err := c.NewWriter(t.Context(), io.Discard, Xz, 0); err == nil {
		t.Error("xz accepted")
	}
}

// The bytes are the same for any number of workers, also when a compressor has been used for other things before and is
// being used meanwhile.
func TestCompressDeterministic(t *testing.T) {
	data := mixed(5 << 20)
	for _, f := range []Compression{Gzip, Zstd} {
		want := digest.FromBytes(compress(t, NewCompressor(1), data, f, 0))
		for _, workers := range []int{1, 2, 7} {
			c := NewCompressor(workers)
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					compress(t, c, data[i*100_000:i*300_000], f, 0)
					if got := digest.FromBytes(compress(t, c, data, f, 0)); got != want {
						t.Errorf("%s with %d workers: got %s, want %s", f, workers, got, want)
					}
				})
			}
			wg.Wait()
		}
	}
}

// GNU gzip reads what we write, as one member.
func TestGNUGzip(t *testing.T) {
	data := mixed(3 << 20)
	cmd := exec.Command("gzip", "-dc")
	cmd.Stdin = bytes.NewReader(compress(t, NewCompressor(2), data, Gzip, 0))
	got, err := cmd.Output()
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A failing writer, a failing reader and a cancelled context end the stream with their error, without its end, and give
// everything back: another stream works, also when all share the memory of one.
func TestCompressFails(t *testing.T) {
	c := NewCompressor(1)
	data := mixed(5 << 20)
	broken := errors.New("broken")
	for _, f := range []Compression{Gzip, Zstd, Uncompressed} {
		for _, n := range []int{0, 11, 1 << 20} {
			if _, err := c.Compress(t.Context(), &failAfter{n, broken}, bytes.NewReader(data), f, 0); !errors.Is(err, broken) {
				t.Errorf("%s: writer fails: %v", f, err)
			}
			var out bytes.Buffer
			r := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken))
			if _, err := c.Compress(t.Context(), &out, r, f, 0); !errors.Is(err, broken) {
				t.Errorf("%s: reader fails: %v", f, err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			w := writeFunc(func(p []byte) (int, error) {
				cancel(broken)
				return len(p), nil
			})
			if _, err := c.Compress(ctx, w, bytes.NewReader(data), f, 0); !errors.Is(err, broken) {
				t.Errorf("%s: cancelled: %v", f, err)
			}
		}
	}
	if !c.cpu.TryAcquire(1) || !c.blocks.TryAcquire(2*zstdBlock) {
		t.Error("a worker or a block was not given back")
	}
}

// Streams whose destinations do not take anything hold what they have and no more: others still make progress.
func TestCompressBlocked(t *testing.T) {
	c := NewCompressor(1)
	data := mixed(10 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			w := writeFunc(func(p []byte) (int, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			})
			c.Compress(ctx, w, bytes.NewReader(data), Zstd, 0)
		})
	}
	compress(t, c, data, Gzip, 0)
	cancel()
	wg.Wait()
}

func BenchmarkCompress(b *testing.B) {
	data := mixed(64 << 20)
	if f := os.Getenv("LAYER"); f != "" {
		var err error
		if data, err = os.ReadFile(f); err != nil {
			b.Fatal(err)
		}
	}
	c := NewCompressor(0)
	for _, f := range []Compression{Gzip, Zstd} {
		b.Run(string(f), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			var n int
			for b.Loop() {
				n = 0
				w := writeFunc(func(p []byte) (int, error) { n += len(p); return len(p), nil })
				if _, err := c.Compress(b.Context(), w, bytes.NewReader(data), f, 0); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)/float64(len(data)), "ratio")
		})
	}
}
