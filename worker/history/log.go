package history

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"time"
)

// An entry of a log is a head and a body. The head is, in little-endian order: a CRC-32C of all that follows (4 bytes), the
// length of the body (4), the kind (1), the stream (1), the number of the vertex (4), and the time in nanoseconds since
// 1970 (8). The body of a piece of output is the output; any other is a JSON document, or empty.
const (
	headSize = 4 + 4 + 1 + 1 + 4 + 8
	// bodyMax is beyond what any event has. A length above it is damage.
	bodyMax = 256 << 20
)

// The log of a build that has ended ends with two more entries: the record, and where in the file that is (8 bytes). The last
// one has always the same size, so that the record is found from the end of the file.

// A head is what an entry says of its body.
type head struct {
	kind   kind
	stream uint8
	vertex uint32 // counted from 1 in the order of declaration; 0 for none
	time   time.Time
}

// A kind says what an entry is. The values are on the disk.
type kind uint8

// The kinds of entries.
const (
	kindDeclared kind = 1 // a declaration
	kindStarted  kind = 2 // a key
	kindCached   kind = 3 // a key
	kindDone     kind = 4
	kindFailed   kind = 5 // an Error
	kindCanceled kind = 6 // an Error
	kindLogged   kind = 7
	kindProgress kind = 8  // a solver.Status
	kindWarned   kind = 9  // a solver.Warning
	kindRecord   kind = 10 // a Record: as it was at the beginning, in the first entry, or at the end
	kindFooter   kind = 11 // where the entry with the Record is
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendEntry appends an entry to b.
func appendEntry(b []byte, h head, body []byte) []byte {
	at := len(b)
	var head [headSize]byte
	binary.LittleEndian.PutUint32(head[4:], uint32(len(body)))
	head[8], head[9] = byte(h.kind), h.stream
	binary.LittleEndian.PutUint32(head[10:], h.vertex)
	binary.LittleEndian.PutUint64(head[14:], uint64(h.time.UnixNano()))
	b = append(append(b, head[:]...), body...)
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b[at+4:], castagnoli))
	return b
}

// readEntry reads an entry. The body is in buf, which it grows if need be, until the next call. The error is io.EOF where
// there is no further whole entry: a log that a crash has cut ends before what was cut.
func readEntry(r io.Reader, buf []byte) (head, []byte, []byte, error) {
	var raw [headSize]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return head{}, nil, buf, cut(err)
	}
	n := int(binary.LittleEndian.Uint32(raw[4:]))
	if n > bodyMax {
		return head{}, nil, buf, io.EOF
	}
	body, buf, err := readBody(r, buf, n)
	if err != nil {
		return head{}, nil, buf, cut(err)
	}
	sum := crc32.Update(crc32.Checksum(raw[4:], castagnoli), castagnoli, body)
	if sum != binary.LittleEndian.Uint32(raw[:]) {
		return head{}, nil, buf, io.EOF
	}
	return head{
		kind: kind(raw[8]), stream: raw[9], vertex: binary.LittleEndian.Uint32(raw[10:]),
		time: time.Unix(0, int64(binary.LittleEndian.Uint64(raw[14:]))),
	}, body, buf, nil
}

// readBody reads n bytes, in pieces: a damaged length must not make it allocate what is not there.
func readBody(r io.Reader, buf []byte, n int) (body, grown []byte, err error) {
	const piece = 1 << 20
	for have := 0; have < n; {
		next := min(n, have+piece)
		if cap(buf) < next {
			bigger := make([]byte, next, max(next, 2*cap(buf)))
			copy(bigger, buf[:have])
			buf = bigger
		}
		buf = buf[:cap(buf)]
		if _, err := io.ReadFull(r, buf[have:next]); err != nil {
			return nil, buf, err
		}
		have = next
	}
	return buf[:n], buf, nil
}

// cut says of an error in the middle of an entry that the log ends there.
func cut(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

// footerSize is the size of the last entry of the log of a build that has ended.
const footerSize = headSize + 8

// appendEnd appends what a log ends with to b, which is to be written at the place at.
func appendEnd(b []byte, at int64, h head, record []byte) []byte {
	where := at + int64(len(b))
	h.kind = kindRecord
	b = appendEntry(b, h, record)
	h.kind = kindFooter
	return appendEntry(b, h, binary.LittleEndian.AppendUint64(nil, uint64(where)))
}

// lastRecord returns the record that a log ends with; nil if it does not end with one.
func lastRecord(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size < footerSize {
		return nil, err
	}
	h, body, _, err := readEntry(io.NewSectionReader(f, size-footerSize, footerSize), nil)
	if err != nil || h.kind != kindFooter || len(body) != 8 {
		return nil, ignoreEOF(err)
	}
	at := int64(binary.LittleEndian.Uint64(body))
	if at < 0 || at >= size {
		return nil, nil
	}
	h, body, _, err = readEntry(io.NewSectionReader(f, at, size-at), nil)
	if err != nil || h.kind != kindRecord {
		return nil, ignoreEOF(err)
	}
	return body, nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// scan calls fn for each entry of a log file. The body is fn's until it returns.
func scan(path string, fn func(h head, body []byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 256<<10)
	var buf []byte
	for {
		var h head
		var body []byte
		h, body, buf, err = readEntry(r, buf)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := fn(h, body); err != nil {
			return err
		}
	}
}
