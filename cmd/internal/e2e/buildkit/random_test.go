package buildkit

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client/llb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	_ "github.com/boxbuild/boxbuild/proto/boxbuild/v1" // services that the daemon has
	_ "github.com/containerd/containerd/api/services/content/v1"
	_ "github.com/moby/buildkit/api/services/control"
	_ "github.com/moby/buildkit/frontend/gateway/pb"
	_ "go.opentelemetry.io/proto/otlp/collector/trace/v1"
)

// services are all that the daemon has.
var services = []protoreflect.FullName{
	"boxbuild.v1.Builds", "boxbuild.v1.Images", "boxbuild.v1.System", "moby.buildkit.v1.Control", "moby.buildkit.v1.frontend.LLBBridge",
	"containerd.services.content.v1.Content", "opentelemetry.proto.collector.trace.v1.TraceService",
}

// A maker makes messages at random.
type maker struct {
	rnd   *rand.Rand
	words []string
	blobs [][]byte
}

func newMaker(t *testing.T, rnd *rand.Rand, outside string) *maker {
	t.Helper()
	def, err := shell(llb.Image("busybox"), "true").Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := proto.Marshal(def.ToPB())
	if err != nil {
		t.Fatal(err)
	}
	deep := []byte{}
	for range 2000 { // field 1, nested
		deep = append(protoLength(len(deep)), deep...)
	}
	return &maker{
		rnd: rnd,
		words: []string{
			"", "x", "busybox", "docker.io/library/busybox:latest", "/", "..", "../../../../../../.." + outside, outside, outside + "/new", "\x00", "\xff",
			"sha256:" + strings.Repeat("0", 64), "sha256:" + strings.Repeat("g", 64), "sha256:../../x", "sha512:" + strings.Repeat("a", 128),
			"dockerfile.v0", "gateway.v0", "image", "oci", "tar", "local", "docker", "name", "push", "true", "dest", "source", "context", "filename",
			"local://context", "docker-image://busybox", "git://x", "oci-layout://x@sha256:" + strings.Repeat("0", 64), "http://127.0.0.1:1/x",
			"linux/amd64", "9999999999999999999", "-1", "type==", "status==error,ref~=(", strings.Repeat("long", 50_000), strings.Repeat("../", 3000),
		},
		blobs: append(def.Def, whole, deep, []byte("{"), make([]byte, 1<<20)),
	}
}

// protoLength is the beginning of a message that has one of n bytes as its first field.
func protoLength(n int) []byte {
	b := []byte{1<<3 | 2}
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

var numbers = []int64{0, 1, -1, 2, 7, 1 << 20, math.MaxInt32, math.MinInt32, 2 << 30, math.MaxInt64, math.MinInt64, math.MaxUint32}

// message fills m; nested ones up to depth.
func (g *maker) message(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if g.rnd.IntN(3) == 0 || depth == 0 && f.Message() != nil {
			continue
		}
		switch {
		case f.IsMap():
			to := m.Mutable(f).Map()
			for range g.rnd.IntN(4) {
				v := to.NewValue()
				if f.MapValue().Message() != nil {
					g.message(v.Message(), depth-1)
				} else {
					v = g.scalar(f.MapValue())
				}
				to.Set(g.scalar(f.MapKey()).MapKey(), v)
			}
		case f.IsList():
			to := m.Mutable(f).List()
			for range g.rnd.IntN(4) {
				v := to.NewElement()
				if f.Message() != nil {
					g.message(v.Message(), depth-1)
				} else {
					v = g.scalar(f)
				}
				to.Append(v)
			}
		case f.Message() != nil:
			g.message(m.Mutable(f).Message(), depth-1)
		default:
			m.Set(f, g.scalar(f))
		}
	}
}

func (g *maker) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := numbers[g.rnd.IntN(len(numbers))]
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(g.rnd.IntN(8) - 1))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(math.NaN()))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(math.Inf(int(n)))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(g.blobs[g.rnd.IntN(len(g.blobs))])
	default: // a string: messages are not scalar
		w := g.words[g.rnd.IntN(len(g.words))]
		return protoreflect.ValueOfString(strings.ToValidUTF8(w, "\uFFFD"))
	}
}

// TestRandomCalls calls every method of every service with messages that have any field, with paths that lead out, sizes
// that are negative or huge, names that are none. Each is answered, the daemon lives and has not panicked, its memory is
// bounded, and nothing outside its root has been touched. CRASH_SEED repeats a run, CRASH_ROUNDS is how many calls of each
// method there are.
func TestRandomCalls(t *testing.T) {
	seed, err := strconv.ParseUint(os.Getenv("CRASH_SEED"), 10, 64)
	if err != nil {
		seed = 1
	}
	rounds := 8
	if n, err := strconv.Atoi(os.Getenv("CRASH_ROUNDS")); err == nil {
		rounds = n
	}
	d := observed(t)
	d.load()
	was := d.state()
	outside := t.TempDir()
	canary := filepath.Join(outside, "canary")
	if err := os.WriteFile(canary, []byte("canary"), 0o644); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(d.addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var wg sync.WaitGroup
	for i, name := range services {
		desc, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		service, ok := desc.(protoreflect.ServiceDescriptor)
		if !ok {
			t.Fatalf("%s is no service", name)
		}
		g := newMaker(t, rand.New(rand.NewPCG(seed, uint64(i))), outside)
		wg.Go(func() {
			for round := range rounds {
				for i := range service.Methods().Len() {
					g.call(t, conn, service.Methods().Get(i))
					if _, err := d.c.Info(t.Context()); err != nil {
						t.Errorf("after %s, round %d: %v", service.Methods().Get(i).FullName(), round, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	d.restful(was)
	if most := d.memory("VmHWM"); most > 400 {
		t.Errorf("the daemon took %.1f MiB", most)
	}
	list, err := os.ReadDir(outside)
	text, err2 := os.ReadFile(canary)
	if err != nil || err2 != nil || len(list) != 1 || string(text) != "canary" {
		t.Errorf("outside the root there are %v, %v, %v", list, err, err2)
	}
	d.stop()
	for line := range strings.Lines(d.log.String()) {
		if strings.Contains(line, "panic") {
			t.Errorf("the daemon says %.2000s", line)
		}
	}
}

// call makes one call, with one message or, as the method has it, some.
func (g *maker) call(t *testing.T, conn *grpc.ClientConn, m protoreflect.MethodDescriptor) {
	t.Helper()
	// Some methods wait: for a build to begin, or to be told the next event. It is a client that goes then.
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(5+g.rnd.IntN(80))*time.Millisecond)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "buildkit-controlapi-buildid", g.words[g.rnd.IntN(5)])
	sd := &grpc.StreamDesc{ClientStreams: m.IsStreamingClient(), ServerStreams: m.IsStreamingServer()}
	stream, err := conn.NewStream(ctx, sd, fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()))
	if err != nil {
		return
	}
	n := 1
	if m.IsStreamingClient() {
		n = g.rnd.IntN(6)
	}
	for range n {
		in := dynamicpb.NewMessage(m.Input())
		g.message(in, 1+g.rnd.IntN(5))
		if stream.SendMsg(in) != nil {
			break
		}
	}
	_ = stream.CloseSend()
	for range 1000 {
		if stream.RecvMsg(dynamicpb.NewMessage(m.Output())) != nil {
			return
		}
	}
}
