package logread

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"
)

// jsonFile is the format of the driver json-file: a JSON object a line.
type jsonFile struct{}

type jsonEntry struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Time   time.Time         `json:"time"`
	Attrs  map[string]string `json:"attrs"`
}

// maxLine bounds a line of a log file: a keeper cuts what is said at 16 KiB, which escapes make six times as long.
const maxLine = 1 << 20

func (jsonFile) next(r *bufio.Reader) (*Message, int, error) {
	line, n, err := readLine(r)
	if err != nil {
		return nil, n, err
	}
	var e jsonEntry
	if json.Unmarshal(line, &e) != nil {
		return nil, n, errBad
	}
	return &Message{Stream: e.Stream, Text: []byte(e.Log), At: e.Time, Attrs: e.Attrs}, n, nil
}

// readLine reads a line with its newline. One that is too long is skipped.
func readLine(r *bufio.Reader) (line []byte, n int, err error) {
	for {
		part, err := r.ReadSlice('\n')
		n += len(part)
		if len(line) <= maxLine {
			line = append(line, part...)
		}
		switch {
		case err == nil && len(line) > maxLine:
			return nil, n, errBad
		case err == nil:
			return line, n, nil
		case errors.Is(err, io.EOF) && n > 0:
			return nil, n, errPart
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, n, err
		}
	}
}

func (jsonFile) back(f io.ReaderAt, size int64, n int) (start int64, found int, err error) {
	if n == 0 {
		return size, 0, nil
	}
	buf := make([]byte, 64<<10)
	// The newline that ends the n-th last line from behind is followed by n lines; that which ends the last is not counted.
	for end := size; end > 0; {
		from := max(0, end-int64(len(buf)))
		b := buf[:end-from]
		if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		for i := bytes.LastIndexByte(b, '\n'); i >= 0; i = bytes.LastIndexByte(b[:i], '\n') {
			at := from + int64(i)
			if at == size-1 {
				continue
			}
			if found++; found == n {
				return at + 1, n, nil
			}
		}
		end = from
	}
	if size > 0 {
		found++
	}
	return 0, found, nil
}
