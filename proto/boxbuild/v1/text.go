package boxbuildv1

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ValidText returns m itself if all its strings are UTF-8, as Protocol Buffers demand, else a copy with U+FFFD in place of
// what is not. Names of files, lines of a Dockerfile and what programs print can hold any bytes.
func ValidText(m proto.Message) proto.Message {
	if field, _ := InvalidText(m); field == "" {
		return m
	}
	out := proto.Clone(m)
	eachText(out.ProtoReflect(), func(_ protoreflect.FieldDescriptor, s string) (string, bool) {
		return strings.ToValidUTF8(s, string(utf8.RuneError)), true
	})
	return out
}

// InvalidText returns a string in m that is not UTF-8 and the name of its field, which may be one of a message in m; the
// name is "" if all are.
func InvalidText(m proto.Message) (field, text string) {
	eachText(m.ProtoReflect(), func(f protoreflect.FieldDescriptor, s string) (string, bool) {
		if !utf8.ValidString(s) {
			field, text = string(f.Name()), s
		}
		return s, field == ""
	})
	return field, text
}

// A textFunc sees one string of a field and says what shall be in its place, and whether to go on.
type textFunc func(f protoreflect.FieldDescriptor, s string) (string, bool)

// eachText calls fn for every string in m, however deep.
func eachText(m protoreflect.Message, fn textFunc) bool {
	more := true
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			more = eachInMap(f, v.Map(), fn)
		case f.IsList():
			l := v.List()
			for i := 0; i < l.Len() && more; i++ {
				more = eachValue(f, f.Kind(), l.Get(i), fn, func(v protoreflect.Value) { l.Set(i, v) })
			}
		default:
			more = eachValue(f, f.Kind(), v, fn, func(v protoreflect.Value) { m.Set(f, v) })
		}
		return more
	})
	return more
}

// eachValue calls fn for the strings in v, and set if v is a string that changes.
func eachValue(
	f protoreflect.FieldDescriptor, kind protoreflect.Kind, v protoreflect.Value, fn textFunc, set func(protoreflect.Value),
) bool {
	switch kind {
	case protoreflect.StringKind:
		s, more := fn(f, v.String())
		if s != v.String() {
			set(protoreflect.ValueOfString(s))
		}
		return more
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return eachText(v.Message(), fn)
	default:
		return true
	}
}

// eachInMap is eachValue for the keys and values of a map. Of keys that become equal, one stays.
func eachInMap(f protoreflect.FieldDescriptor, m protoreflect.Map, fn textFunc) bool {
	more := true
	type rename struct {
		key protoreflect.MapKey
		to  protoreflect.Value
	}
	var renames []rename
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		more = eachValue(f, f.MapKey().Kind(), k.Value(), fn, func(v protoreflect.Value) { renames = append(renames, rename{k, v}) }) &&
			eachValue(f, f.MapValue().Kind(), v, fn, func(v protoreflect.Value) { m.Set(k, v) })
		return more
	})
	for _, r := range renames { // a map must not get new keys while it is walked through
		v := m.Get(r.key)
		m.Clear(r.key)
		m.Set(r.to.MapKey(), v)
	}
	return more
}
