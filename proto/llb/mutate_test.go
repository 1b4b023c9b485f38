package llb

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestMutations is FuzzDecode with definitions in which single fields have been changed, which are likelier to be taken.
func TestMutations(t *testing.T) {
	refused, taken := 0, 0
	for seed := range uint64(40) {
		c := newClient(seed)
		def := c.definition(t, 6)
		for range 60 {
			out := &pb.Definition{Metadata: def.Metadata, Source: def.Source}
			victim := c.IntN(len(def.Def) - 1)
			names := make(map[string]string)
			for i, raw := range def.Def {
				o := new(pb.Op)
				if err := o.Unmarshal(raw); err != nil {
					t.Fatal(err)
				}
				for _, in := range o.Inputs {
					in.Digest = names[in.Digest]
				}
				if i == victim {
					c.mutate(o.ProtoReflect(), 1+c.IntN(3))
				}
				now, err := marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				out.Def = append(out.Def, now)
				names[digest.FromBytes(raw).String()] = digest.FromBytes(now).String()
			}
			if checkHostile(t, out) {
				refused++
			} else {
				taken++
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
	if refused < 100 || taken < 100 {
		t.Errorf("%d were refused and %d taken: that is no test", refused, taken)
	}
}

// mutate changes n fields of m and of what it has in it.
func (c *client) mutate(m protoreflect.Message, n int) {
	for range n {
		at := m
		for {
			var deeper []protoreflect.Message
			at.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
				switch {
				case f.Kind() != protoreflect.MessageKind || f.IsMap():
				case f.IsList():
					for i := range v.List().Len() {
						deeper = append(deeper, v.List().Get(i).Message())
					}
				default:
					deeper = append(deeper, v.Message())
				}
				return true
			})
			if len(deeper) == 0 || c.chance(5) {
				break
			}
			at = deeper[c.IntN(len(deeper))]
		}
		fields := at.Descriptor().Fields()
		if fields.Len() == 0 {
			continue
		}
		f := fields.Get(c.IntN(fields.Len()))
		switch {
		case f.IsMap() || f.IsList():
			c.mutateMany(at, f)
		case f.Kind() == protoreflect.MessageKind:
			if c.chance(2) {
				at.Clear(f)
			} else {
				at.Set(f, at.NewField(f))
			}
		default:
			at.Set(f, c.scalar(f))
		}
	}
}

// mutateMany changes a field that has many values.
func (c *client) mutateMany(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	switch {
	case f.IsMap():
		if f.MapValue().Kind() == protoreflect.StringKind {
			m.Mutable(f).Map().Set(protoreflect.ValueOfString(c.word()).MapKey(), protoreflect.ValueOfString(c.word()))
		}
	case f.Kind() == protoreflect.MessageKind:
		l := m.Mutable(f).List()
		if n := l.Len(); n > 0 {
			switch c.IntN(3) {
			case 0:
				l.Truncate(n - 1)
			case 1:
				l.Append(l.Get(c.IntN(n)))
			case 2:
				x, y := l.Get(c.IntN(n)), c.IntN(n)
				l.Set(y, x)
			}
		}
	default:
		m.Mutable(f).List().Append(c.scalar(f))
	}
}

func (c *client) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := []int64{-2, -1, 0, 1, 2, 3, 7, 1 << 30, 1 << 62}[c.IntN(9)]
	switch f.Kind() { //nolint:exhaustive // LLB has no others
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 0)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(n)))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(c.word()))
	}
	return protoreflect.ValueOfString([]string{"", "/", "..", "../x", "a/../..", "/a/./b/", "*", c.word(), "/dev/shm", "/dev/shm/"}[c.IntN(10)])
}
