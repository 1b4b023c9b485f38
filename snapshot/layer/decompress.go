package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// A Compression is a format that Decompress knows.
type Compression string

// The formats. Layers are only ever written as the first three; archives that users load come in all of them.
const (
	Uncompressed Compression = "uncompressed"
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
	Bzip2        Compression = "bzip2"
	Xz           Compression = "xz"
)

// Decoders allocate the window that a stream asks for; these are the largest that common encoders use.
const (
	maxZstdWindow = 128 << 20 // zstd --ultra -22
	maxXzDict     = 128 << 20 // xz -9 uses 64 MiB
)

// Detect says how the bytes that begin with head, 512 or all there are, are compressed. Their content alone counts: media types
// and file names lie.
func Detect(head []byte) Compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return Gzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // a skippable frame
		return Zstd
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return Xz
	case bytes.HasPrefix(head, []byte("BZh")) && !isTar(head): // a tar begins with a file's name
		return Bzip2
	}
	return Uncompressed
}

func isTar(head []byte) bool {
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

// Decompress returns a reader of what r holds, decompressed if it is compressed. All of it happens in this process:
// there is no helper program that could be another's. Where the stream ends r is read to its end too, so that a reader
// that verifies gets to do so. Close frees the decoder, and does not close r.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	br := bufio.NewReaderSize(r, 128<<10)
	head, err := br.Peek(512)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	c := Detect(head)
	dec := &decoder{src: br}
	switch c {
	case Gzip:
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, c, fmt.Errorf("decompressing gzip: %w", err)
		}
		dec.r, dec.free = z, func() { z.Close() }
	case Zstd:
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, c, fmt.Errorf("decompressing zstd: %w", err)
		}
		dec.r, dec.free = z, z.Close
	case Xz:
		if d, ok := xzDict(head); ok && d > maxXzDict {
			return nil, c, fmt.Errorf("decompressing xz: a dictionary of %d bytes is more than the limit of %d", d, maxXzDict)
		}
		z, err := xz.NewReader(br)
		if err != nil {
			return nil, c, fmt.Errorf("decompressing xz: %w", err)
		}
		dec.r = z
	case Bzip2:
		dec.r = bzip2.NewReader(br)
	case Uncompressed:
		dec.r = br
	}
	return dec, c, nil
}

// xzDict returns the dictionary size of the first block of an xz stream (the format's specification, 3.1 and 5.3.1), if
// its filter is LZMA2 alone.
func xzDict(head []byte) (int64, bool) {
	if len(head) < 12+8 {
		return 0, false
	}
	h := head[12:]
	flags, p := h[1], 2
	if flags&3 != 0 {
		return 0, false // more filters; the decoder refuses that
	}
	for range int(flags>>6&1) + int(flags>>7&1) { // the block's sizes, if given
		for p < len(h) && h[p]&0x80 != 0 {
			p++
		}
		p++
	}
	if p+2 >= len(h) || h[p] != 0x21 || h[p+1] != 1 {
		return 0, false
	}
	d, err := lzma.DecodeDictCap(h[p+2])
	return d, err == nil
}

type decoder struct {
	src  io.Reader // what r reads from
	r    io.Reader
	free func()
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != io.EOF {
		return n, err
	}
	if rest, derr := io.Copy(io.Discard, d.src); derr != nil {
		return n, derr
	} else if rest > 0 {
		return n, errors.New("bytes after the end of the compressed stream")
	}
	return n, io.EOF
}

// padding says whether err, which came of decompressing in after the end of a tar, means only that something follows there
// which is not compressed: zeros up to a block of a tape, a signature. It does not if the stream's own checksum is wrong.
func padding(in *counter, err error) bool {
	var block bzip2.StructuralError
	switch {
	case in.err != nil, errors.Is(err, ErrTooLarge), errors.Is(err, gzip.ErrChecksum), errors.Is(err, zstd.ErrCRCMismatch):
		return false
	case errors.As(err, &block):
		return !strings.Contains(string(block), "checksum")
	}
	return !strings.HasPrefix(err.Error(), "xz: ") || !strings.Contains(err.Error(), "checksum") // no error of its own has a name
}

func (d *decoder) Close() error {
	if d.free != nil {
		d.free()
		d.free = nil
	}
	return nil
}
