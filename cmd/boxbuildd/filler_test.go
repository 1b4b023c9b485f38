package main

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A filler makes messages of bytes: the same bytes, the same messages. Bytes that run out are zeros, which fill nothing
// more; so a short input is a short message, and what a fuzzer changes in one place changes one field.
type filler struct {
	data  []byte
	words []string // what strings are, mostly
	ops   []string // digests of the vertices made so far
}

// next returns the next byte.
func (f *filler) next() byte {
	if len(f.data) == 0 {
		return 0
	}
	b := f.data[0]
	f.data = f.data[1:]
	return b
}

// below returns a number from 0 to n-1.
func (f *filler) below(n int) int {
	if n > 256 {
		return (int(f.next())<<8 | int(f.next())) % n
	}
	return int(f.next()) % n
}

// harvest takes the strings of an answer as words: names of what there is now are more to the point than any that are
// made up.
func (f *filler) harvest(m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case len(f.words) > 500 || fd.IsMap():
		case fd.IsList() && fd.Message() != nil:
			for i := range min(v.List().Len(), 4) {
				f.harvest(v.List().Get(i).Message())
			}
		case fd.Message() != nil && !fd.IsList():
			f.harvest(v.Message())
		case fd.Kind() == protoreflect.StringKind && !fd.IsList():
			f.words = append(f.words, v.String())
		}
		return true
	})
}

// message sets some fields of m, those of nested messages down to depth.
func (f *filler) message(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	if fields.Len() == 0 {
		return
	}
	for range f.below(12) {
		if fd := fields.Get(f.below(fields.Len())); depth > 0 || fd.Message() == nil {
			f.field(m, fd, depth)
		}
	}
}

func (f *filler) field(m protoreflect.Message, fd protoreflect.FieldDescriptor, depth int) {
	switch {
	case fd.IsMap():
		to := m.Mutable(fd).Map()
		for range f.below(4) {
			v := to.NewValue()
			if fd.MapValue().Message() != nil {
				f.message(v.Message(), depth-1)
			} else {
				v = f.scalar(fd.MapValue())
			}
			to.Set(f.scalar(fd.MapKey()).MapKey(), v)
		}
	case fd.FullName() == "pb.Definition.def":
		to := m.Mutable(fd).List()
		for range f.below(8) {
			to.Append(protoreflect.ValueOfBytes(f.vertex()))
		}
	case fd.IsList():
		to := m.Mutable(fd).List()
		for range f.below(4) {
			v := to.NewElement()
			if fd.Message() != nil {
				f.message(v.Message(), depth-1)
			} else {
				v = f.scalar(fd)
			}
			to.Append(v)
		}
	case fd.Message() != nil:
		f.message(m.Mutable(fd).Message(), depth-1)
	default:
		m.Set(fd, f.scalar(fd))
	}
}

// vertex makes an operation of a definition, whose inputs are mostly those made before.
func (f *filler) vertex() []byte {
	v := new(pb.Op)
	f.message(v.ProtoReflect(), 4)
	if v.GetOp() == nil && len(f.ops) > 0 { // as the last one of a definition has it
		v.Inputs = []*pb.Input{{Digest: f.ops[len(f.ops)-1]}}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(v)
	if err != nil {
		return nil
	}
	f.ops = append(f.ops, digest.FromBytes(b).String())
	return b
}

var numbers = []uint64{0, 1, 2, 7, 1 << 20, math.MaxInt32, 1 << 31, math.MaxInt64, 1 << 63, math.MaxUint64, math.MaxUint32, 0o120777}

func (f *filler) number() uint64 {
	switch b := f.next(); {
	case b < 64:
		return numbers[int(b)%len(numbers)]
	case b == 255:
		var n [8]byte
		f.data = f.data[copy(n[:], f.data):]
		return binary.LittleEndian.Uint64(n[:])
	default:
		return uint64(b - 64)
	}
}

func (f *filler) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(f.next()&1 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(f.below(9)) - 1)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(f.number()))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(f.number()))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(f.number()))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(f.number())
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(math.Float32frombits(uint32(f.number())))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(math.Float64frombits(f.number()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(f.bytes())
	default: // a string: messages are not scalar
		if fd.FullName() == "pb.Input.digest" && len(f.ops) > 0 {
			return protoreflect.ValueOfString(f.ops[f.below(len(f.ops))])
		}
		return protoreflect.ValueOfString(f.word())
	}
}

// bytes returns content: some of the input's, a message, or much.
func (f *filler) bytes() []byte {
	switch b := f.next(); {
	case b < 128:
		n := min(int(b), len(f.data))
		b := f.data[:n:n]
		f.data = f.data[n:]
		return b
	case b < 160:
		return []byte(f.word())
	case b < 250:
		return f.vertex()
	default:
		return make([]byte, 1<<20)
	}
}

// word returns a string. What is made up is no path from the root and is found on no host: a daemon that follows its
// client may read all of what is there.
func (f *filler) word() string {
	b := f.next()
	if b < 200 {
		return f.words[(int(b)+f.below(1+len(f.words)/200)*200)%len(f.words)]
	}
	n := min(int(b)-200, len(f.data))
	s := strings.ToValidUTF8(string(f.data[:n]), "\uFFFD")
	f.data = f.data[n:]
	return strings.ReplaceAll(strings.TrimLeft(s, "/"), "..", "__")
}
