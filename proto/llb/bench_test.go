package llb

import (
	"testing"

	"github.com/moby/buildkit/client/llb"
)

// BenchmarkCodec decodes and encodes a graph like that of a Dockerfile of fifty steps; encoding it is with and without the
// bytes that it came in.
func BenchmarkCodec(b *testing.B) {
	st := llb.Image("busybox")
	for i := range 50 {
		if i%2 == 0 {
			st = st.File(llb.Copy(llb.Local("context"), "/src", "/dst/", &llb.CopyInfo{CopyDirContentsOnly: true}))
		} else {
			st = st.Run(llb.Shlex("make all"), llb.AddEnv("A", "b"), llb.AddEnv("C", "d")).Root()
		}
	}
	d, err := st.Marshal(b.Context(), llb.LinuxAmd64)
	if err != nil {
		b.Fatal(err)
	}
	def := d.ToPB()
	g, err := Decode(def)
	if err != nil {
		b.Fatal(err)
	}
	bare := forget(*g.Root)
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Decode(def); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("as it came", func(b *testing.B) {
		for b.Loop() {
			if _, err := Encode(g.Root, Options{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("anew", func(b *testing.B) {
		for b.Loop() {
			if _, err := Encode(&bare, Options{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
