package history

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

// noFile returns what fails to make a file.
func noFile(err error) func() (*os.File, error) { return func() (*os.File, error) { return nil, err } }

// FuzzReadEntry checks that whatever is in a file, reading it ends, and that what was written is read.
func FuzzReadEntry(f *testing.F) {
	f.Add(appendEntry(nil, head{kind: kindLogged, stream: 1, vertex: 3, time: time.Unix(5, 6)}, []byte("text")), []byte("body"))
	f.Add([]byte{}, []byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 40), []byte("x"))
	f.Fuzz(func(t *testing.T, raw, body []byte) {
		r := bytes.NewReader(raw)
		var buf []byte
		for {
			_, _, b, err := readEntry(r, buf)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			buf = b
		}
		want := head{kind: kindWarned, stream: 2, vertex: 7, time: time.Unix(1, 2)}
		got, b, _, err := readEntry(bytes.NewReader(appendEntry(nil, want, body)), nil)
		if err != nil || got.kind != want.kind || got.stream != want.stream || got.vertex != want.vertex || !got.time.Equal(want.time) ||
			!bytes.Equal(b, body) {
			t.Errorf("got %+v %q, want %+v %q: %v", got, b, want, body, err)
		}
	})
}

// FuzzReplay checks that no log that is whole but wrong makes the replay panic.
func FuzzReplay(f *testing.F) {
	f.Add(uint8(kindDeclared), uint32(1), []byte(`{"Key":"00","Inputs":[{"Vertex":5}]}`))
	f.Add(uint8(kindDone), uint32(9), []byte(nil))
	f.Add(uint8(kindFailed), uint32(0), []byte(`{"Message":"x"}`))
	f.Fuzz(func(_ *testing.T, k uint8, vertex uint32, body []byte) {
		var r replay
		for range 2 {
			_, _ = r.event(head{kind: kind(k), vertex: vertex}, body)
		}
	})
}
