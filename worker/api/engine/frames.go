package engine

import (
	"encoding/binary"
	"io"

	"github.com/boxbuild/boxbuild/executor"
)

// The numbers of streams in Docker's frames.
const (
	stdoutFrame = 1
	stderrFrame = 2
	frameHeader = 8 // the stream's number, three zeros, four bytes of length
)

// frame puts b into a frame of a stream.
func frame(stream byte, b []byte) []byte {
	out := make([]byte, frameHeader, frameHeader+len(b))
	out[0] = stream
	binary.BigEndian.PutUint32(out[4:], uint32(len(b)))
	return append(out, b...)
}

// unframed takes what an attachment says out of its frames.
type unframed struct {
	executor.Attachment
	left uint32 // of the frame
}

// Read implements io.Reader.
func (u *unframed) Read(p []byte) (int, error) {
	for u.left == 0 {
		var head [frameHeader]byte
		if _, err := io.ReadFull(u.Attachment, head[:]); err != nil {
			return 0, err
		}
		u.left = binary.BigEndian.Uint32(head[4:])
	}
	if uint64(len(p)) > uint64(u.left) {
		p = p[:u.left]
	}
	n, err := u.Attachment.Read(p)
	u.left -= uint32(n)
	return n, err
}
