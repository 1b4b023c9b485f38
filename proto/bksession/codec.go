package bksession

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec is gRPC's protobuf codec for messages with generated code of their own (vtprotobuf) too, which takes neither
// reflection nor, for names of files, valid UTF-8.
type codec struct{}

var _ encoding.CodecV2 = codec{}

type fastMarshaler interface{ MarshalVT() ([]byte, error) }

type fastUnmarshaler interface{ UnmarshalVT(b []byte) error }

// raw is a message that is encoded already, or is not to be decoded.
type raw []byte

// Name implements encoding.CodecV2.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	var b []byte
	var err error
	switch m := v.(type) {
	case *raw:
		b = *m
	case fastMarshaler:
		b, err = m.MarshalVT()
	case proto.Message:
		b, err = proto.Marshal(m)
	default:
		err = fmt.Errorf("encoding a message of type %T", v)
	}
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *raw: // the buffer is the caller's own, and is used again for the next message
		n := data.Len()
		if cap(*m) < n {
			*m = make(raw, n)
		}
		*m = (*m)[:n]
		data.CopyTo(*m)
		return nil
	case fastUnmarshaler:
		buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer buf.Free()
		return m.UnmarshalVT(buf.ReadOnlyData())
	case proto.Message:
		buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer buf.Free()
		return proto.Unmarshal(buf.ReadOnlyData(), m)
	}
	return fmt.Errorf("decoding a message into %T", v)
}
