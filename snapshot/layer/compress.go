package layer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"
)

// Each stream is cut into blocks of a fixed size, and each block is compressed by itself (gzip: with the end of the block
// before it as a dictionary; zstd: as a frame of its own). So the bytes that come out depend on the bytes that go in and
// on the level alone, not on the number of workers or on who else compresses.
const (
	gzipBlock  = 512 << 10
	gzipWindow = 32 << 10
	zstdBlock  = 4 << 20
)

// DefaultGzipLevel comes within 5 % of what `gzip -6` makes of system and source trees, in a fifth of its time; see
// DESIGN.md for figures. DefaultZstdLevel is zstd's own default.
const (
	DefaultGzipLevel = 5
	DefaultZstdLevel = 3
)

// A Compressor compresses streams with workers that all of them share. Memory is bounded: a stream holds a block that is
// being filled or compressed, and all streams together hold a few more for each worker.
type Compressor struct {
	cpu    *semaphore.Weighted // one a worker
	blocks *semaphore.Weighted // bytes of blocks beyond the first one of each stream
	flate  [10]sync.Pool       // of *flate.Writer, by level

	mu   sync.Mutex
	zstd map[int]*zstd.Encoder // by level; guarded by mu
}

// NewCompressor returns a compressor of that many workers; 0 stands for the number of processors.
func NewCompressor(workers int) *Compressor {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	return &Compressor{
		cpu:    semaphore.NewWeighted(int64(workers)),
		blocks: semaphore.NewWeighted(int64(workers) * 2 * zstdBlock),
		zstd:   make(map[int]*zstd.Encoder),
	}
}

// Compress copies r to w, compressed as format says (Gzip, Zstd or Uncompressed); level 0 is the default, others are 1 to
// 9 for gzip and 1 to 22 for zstd. It returns the number of bytes read.
func (c *Compressor) Compress(ctx context.Context, w io.Writer, r io.Reader, format Compression, level int) (int64, error) {
	z, err := c.NewWriter(ctx, w, format, level)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(z, r)
	if err != nil {
		z.Abort(err)
	}
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	return n, err
}

// A Writer compresses what is written to it. Close writes the end, and must be called.
type Writer struct {
	c     *Compressor
	ctx   context.Context //nolint:containedctx // that of the stream: a Writer has no other way to be cancelled
	stop  context.CancelCauseFunc
	codec codec

	buf  []byte // the block that is being filled
	tail []byte // the end of the block before it, for gzip
	crc  uint32
	size uint32
	held int64 // of Compressor.blocks, for buf

	jobs   chan *job
	busy   chan struct{} // the token of the block that every stream may hold; full if that is free
	done   chan struct{}
	err    error // of the goroutine that writes; read after done
	closed bool
}

// A codec is the part of a format that a block needs.
type codec struct {
	format Compression
	level  int
	block  int
}

type job struct {
	in, dict []byte
	last     bool
	held     int64
	out      []byte
	err      error
	ready    chan struct{}
}

// NewWriter returns a Writer to w, as Compress describes. After ctx is done writing fails.
func (c *Compressor) NewWriter(ctx context.Context, w io.Writer, format Compression, level int) (*Writer, error) {
	k := codec{format: format, level: level}
	switch format {
	case Gzip:
		k.block = gzipBlock
		if level == 0 {
			k.level = DefaultGzipLevel
		}
		if k.level < 1 || k.level > 9 {
			return nil, fmt.Errorf("compressing: gzip has no level %d", level)
		}
	case Zstd:
		k.block = zstdBlock
		if level == 0 {
			k.level = DefaultZstdLevel
		}
		if k.level < 1 || k.level > 22 {
			return nil, fmt.Errorf("compressing: zstd has no level %d", level)
		}
	case Uncompressed:
		k.block = gzipBlock
	default:
		return nil, fmt.Errorf("compressing: layers are not compressed with %s", format)
	}
	ctx, stop := context.WithCancelCause(ctx)
	z := &Writer{
		c: c, ctx: ctx, stop: stop, codec: k,
		jobs: make(chan *job, 64), busy: make(chan struct{}, 1), done: make(chan struct{}),
	}
	z.busy <- struct{}{}
	go z.output(w)
	return z, nil
}

// Write implements io.Writer.
func (z *Writer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if z.buf == nil {
			if err := z.newBlock(); err != nil {
				return n - len(p), err
			}
		}
		m := min(len(p), z.codec.block-len(z.buf))
		z.buf = append(z.buf, p[:m]...)
		p = p[m:]
		if len(z.buf) == z.codec.block {
			if err := z.dispatch(false); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

// newBlock gets the memory for a block: the stream's own, if that is free, or some of what all streams share, whichever
// is to be had first.
func (z *Writer) newBlock() error {
	select {
	case <-z.busy:
		z.held = 0
	default:
		if z.c.blocks.TryAcquire(int64(z.codec.block)) {
			z.held = int64(z.codec.block)
			break
		}
		select {
		case <-z.busy:
			z.held = 0
		case <-z.ctx.Done():
			return context.Cause(z.ctx)
		}
	}
	z.buf = make([]byte, 0, z.codec.block)
	return nil
}

// dispatch hands the block to the workers.
func (z *Writer) dispatch(last bool) error {
	j := &job{in: z.buf, dict: z.tail, last: last, held: z.held, ready: make(chan struct{})}
	if z.codec.format == Gzip {
		z.crc = crc32.Update(z.crc, crc32.IEEETable, z.buf)
		z.size += uint32(len(z.buf))
		z.tail = z.buf[max(0, len(z.buf)-gzipWindow):]
	}
	z.buf, z.held = nil, 0
	select {
	case z.jobs <- j:
	case <-z.ctx.Done():
		z.release(j)
		return context.Cause(z.ctx)
	}
	go func() {
		defer close(j.ready)
		if j.err = z.c.cpu.Acquire(z.ctx, 1); j.err != nil {
			return
		}
		defer z.c.cpu.Release(1)
		j.out, j.err = z.c.block(z.codec, j)
	}()
	return nil
}

func (z *Writer) release(j *job) {
	if j.held > 0 {
		z.c.blocks.Release(j.held)
	} else {
		select {
		case z.busy <- struct{}{}:
		default: // the block that Close makes for an empty end has no token
		}
	}
}

// output writes the blocks in order.
func (z *Writer) output(w io.Writer) {
	defer close(z.done)
	if z.codec.format == Gzip {
		// RFC 1952: deflate, no flags, no time, no extra flags, unknown system.
		if _, err := w.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}); err != nil {
			z.fail(err)
		}
	}
	for j := range z.jobs {
		<-j.ready
		if z.err == nil {
			if j.err != nil {
				z.fail(j.err)
			} else if _, err := w.Write(j.out); err != nil {
				z.fail(err)
			}
		}
		z.release(j)
	}
	if z.err == nil && z.ctx.Err() != nil {
		z.err = context.Cause(z.ctx)
	}
	if z.err == nil && z.codec.format == Gzip {
		end := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, z.crc), z.size)
		_, z.err = w.Write(end)
	}
}

func (z *Writer) fail(err error) {
	if z.ctx.Err() != nil {
		err = context.Cause(z.ctx) // what comes after a cancellation is its consequence
	}
	z.err = err
	z.stop(err)
}

// Abort makes Close leave the stream unfinished.
func (z *Writer) Abort(err error) { z.stop(err) }

// Close writes what is left and the end of the stream, and waits until all is written. It does not close the writer
// below. It may be called twice.
func (z *Writer) Close() error {
	if z.closed {
		return z.err
	}
	z.closed = true
	if z.ctx.Err() == nil && (z.buf != nil || z.codec.format != Uncompressed) {
		if err := z.dispatch(true); err != nil {
			z.stop(err)
		}
	}
	close(z.jobs)
	<-z.done
	if z.held > 0 { // a block that was being filled when the stream was aborted
		z.c.blocks.Release(z.held)
	}
	z.stop(io.ErrClosedPipe)
	if z.err != nil {
		return fmt.Errorf("compressing: %w", z.err)
	}
	return nil
}

// block compresses one block.
func (c *Compressor) block(k codec, j *job) ([]byte, error) {
	switch k.format {
	case Gzip:
		return c.deflate(k.level, j)
	case Zstd:
		enc, err := c.encoder(k.level)
		if err != nil {
			return nil, err
		}
		return enc.EncodeAll(j.in, nil), nil
	case Uncompressed, Bzip2, Xz: // nothing is written in the last two
	}
	return j.in, nil
}

// deflate compresses a block into whole deflate blocks; all but the last end in a sync marker, at a byte.
func (c *Compressor) deflate(level int, j *job) ([]byte, error) {
	out := bytes.NewBuffer(make([]byte, 0, len(j.in)/2+64))
	w, ok := c.flate[level].Get().(*flate.Writer)
	if !ok {
		var err error
		if w, err = flate.NewWriter(out, level); err != nil {
			return nil, err
		}
	}
	w.ResetDict(out, j.dict)
	_, err := w.Write(j.in)
	if j.last {
		err = errors.Join(err, w.Close())
	} else {
		err = errors.Join(err, w.Flush())
	}
	c.flate[level].Put(w)
	return out.Bytes(), err
}

// encoder returns the encoder of a level. It is shared: EncodeAll may be called concurrently.
func (c *Compressor) encoder(level int) (*zstd.Encoder, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.zstd[level]; e != nil {
		return e, nil
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithZeroFrames(true), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(zstdBlock))
	if err != nil {
		return nil, err
	}
	c.zstd[level] = e
	return e, nil
}
