package logread

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"time"
)

// local is the format of the driver local: a message of protocol buffers between its length and its length again.
type local struct{}

func (local) next(r *bufio.Reader) (*Message, int, error) {
	head, err := r.Peek(4)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = errPart
		}
		return nil, len(head), err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxLine {
		return nil, 0, io.EOF // there is no telling where the next one begins
	}
	b := make([]byte, size+8)
	n, err := io.ReadFull(r, b)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			err = errPart
		}
		return nil, n, err
	}
	m, ok := decode(b[4 : 4+size])
	if !ok {
		return nil, n, errBad
	}
	return m, n, nil
}

// decode reads the fields of a LogEntry that are needed.
func decode(b []byte) (*Message, bool) {
	m := new(Message)
	partial := false
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, false
		}
		b = b[n:]
		v, n := binary.Uvarint(b) // a number, or the length of what follows
		if n <= 0 {
			return nil, false
		}
		b = b[n:]
		var data []byte
		switch tag & 7 {
		case 0:
		case 2:
			if v > uint64(len(b)) {
				return nil, false
			}
			data, b = b[:v], b[v:]
		default:
			return nil, false
		}
		switch tag >> 3 {
		case 1:
			m.Stream = string(data)
		case 2:
			m.At = time.Unix(0, int64(v)).UTC()
		case 3:
			m.Text = append(m.Text, data...)
		case 4:
			partial = v != 0
		}
	}
	if !partial {
		m.Text = append(m.Text, '\n')
	}
	return m, true
}

func (local) back(f io.ReaderAt, size int64, n int) (start int64, found int, err error) {
	for start = size; start > 0 && found < n; found++ {
		var b [4]byte
		if start < 8 {
			return 0, found, nil
		}
		if _, err := f.ReadAt(b[:], start-4); err != nil {
			return 0, 0, err
		}
		at := start - 8 - int64(binary.BigEndian.Uint32(b[:]))
		if at < 0 {
			return 0, found, nil
		}
		start = at
	}
	return start, found, nil
}
