package buildkit

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
)

// many is how many builds there are at once; LOAD_BUILDS says otherwise.
func many(t *testing.T, usual int) int {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv("LOAD_BUILDS")); err == nil {
		return n
	}
	return usual
}

// A barrier is a file of the web that is sent to nobody before n have asked for it: then n builds are under way. Where one
// has failed before it came to ask, the others would wait for it for ever: then open lets them through.
func barrier(t *testing.T, n int) (address func(i int) string, open func()) {
	t.Helper()
	var mu sync.Mutex
	asked := map[string]bool{}
	all := make(chan struct{})
	open = sync.OnceFunc(func() { close(all) })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Path] = true
		if len(asked) == n {
			open()
		}
		mu.Unlock()
		select {
		case <-all:
		case <-r.Context().Done():
		}
		fmt.Fprintln(w, r.URL.Path)
	}))
	t.Cleanup(srv.Close)
	return func(i int) string { return fmt.Sprintf("%s/%d", srv.URL, i) }, open
}

// steps is how many RUNs a build of the load has.
const steps = 5

// A loaded is one of many builds at once.
type loaded struct {
	result string      // what the file /result has in the end
	starts []time.Time // of its RUNs, in order
}

// ask is how a build of the load is asked for: build number i, which waits for the barrier at address.
type ask func(t *testing.T, d *daemon, c *client.Client, i int, address string) (*loaded, error)

// script is what a RUN of build i does.
func script(i, step int) string { return fmt.Sprintf("echo %d.%d >> /result", i, step) }

// wanted is the result of build i.
func wanted(i int) string {
	var b strings.Builder
	for s := range steps {
		fmt.Fprintf(&b, "%d.%d\n", i, s)
	}
	return b.String() + fmt.Sprintf("context %d\n", i)
}

// byDockerfile builds a context of its own.
func byDockerfile(t *testing.T, d *daemon, c *client.Client, i int, address string) (*loaded, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "FROM busybox\nADD %s /gate\n", address)
	for s := range steps {
		fmt.Fprintf(&text, "RUN %s\n", script(i, s))
	}
	text.WriteString("COPY own /own\nRUN cat /own >> /result\n")
	var s sink
	opt := opts(t, map[string]string{"Dockerfile": text.String(), "own": fmt.Sprintf("context %d\n", i)})
	opt.Exports = []client.ExportEntry{s.to(client.ExporterTar, nil)}
	return follow(t, c, nil, opt, &s)
}

// state makes the graph of build i.
func graph(i int, address string) llb.State {
	s := llb.Image("busybox").File(llb.Copy(llb.HTTP(address, llb.Filename("gate")), "/gate", "/gate"))
	for n := range steps {
		s = shell(s, script(i, n))
	}
	return shell(s, fmt.Sprintf("echo context %d >> /result", i))
}

// byDefinition builds a graph.
func byDefinition(t *testing.T, d *daemon, c *client.Client, i int, address string) (*loaded, error) {
	def, err := graph(i, address).Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		return nil, err
	}
	var s sink
	return follow(t, c, def, client.SolveOpt{Exports: []client.ExportEntry{s.to(client.ExporterTar, nil)}}, &s)
}

// directed builds the same, as its own director.
func directed(t *testing.T, d *daemon, c *client.Client, i int, address string) (*loaded, error) {
	ch := make(chan *client.SolveStatus)
	told := make(chan *progress)
	go func() { told <- take(ch) }()
	var text []byte
	_, err := c.Build(t.Context(), client.SolveOpt{}, "boxbuild", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		ref, err := solved(ctx, c, graph(i, address), true)
		if err != nil {
			return nil, err
		}
		text, err = ref.ReadFile(ctx, gateway.ReadRequest{Filename: "/result"})
		return gateway.NewResult(), err
	}, ch)
	return &loaded{string(text), starts(<-told)}, err
}

// follow builds, and returns what the archive in s has then.
func follow(t *testing.T, c *client.Client, def *llb.Definition, opt client.SolveOpt, s *sink) (*loaded, error) {
	ch := make(chan *client.SolveStatus)
	told := make(chan *progress)
	go func() { told <- take(ch) }()
	_, err := c.Solve(t.Context(), def, opt, ch)
	l := &loaded{starts: starts(<-told)}
	if err == nil {
		l.result = readTar(t, &s.Buffer)["result"]
	}
	return l, err
}

// starts are the times at which the RUNs began.
func starts(p *progress) []time.Time {
	var out []time.Time
	for _, v := range p.vertices {
		if strings.Contains(v.Name, ">> /result") && v.Started != nil {
			out = append(out, *v.Started)
		}
	}
	slices.SortFunc(out, time.Time.Compare)
	return out
}

// TestLoad checks many builds at once, of all kinds, over one connection and over one each: all that is under way at the
// same time is right, none waits for the others to end, and then the daemon holds what it held before.
func TestLoad(t *testing.T) {
	n := many(t, 24)
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own connections %v", own), func(t *testing.T) {
			d := observed(t)
			d.load()
			d.must(opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"})) // what is there from the first build on
			was := d.state()
			address, open := barrier(t, n)
			builds := make([]*loaded, n)
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					c := d.c
					if own {
						var err error
						if c, err = client.New(t.Context(), d.addr()); err != nil {
							t.Error(err)
							open()
							return
						}
						defer c.Close()
					}
					by := []ask{byDockerfile, byDefinition, directed}[i%3]
					l, err := by(t, d, c, i, address(i))
					if err != nil {
						t.Errorf("build %d: %v", i, err)
						open()
						return
					}
					builds[i] = l
					if l.result != wanted(i) {
						t.Errorf("build %d has %q", i, l.result)
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			fair(t, builds)
			d.restful(was)
			most := d.memory("VmHWM")
			d.keep("allocs")
			t.Logf("after %d builds: %.1f MiB, the heap %d KiB; at most %.1f MiB", n, d.anonymous(), d.heap(), most)
			if most > 150+5*float64(n) {
				t.Errorf("%d builds took %.1f MiB", n, most)
			}
		})
	}
}

// fair checks that builds take turns: before one has run all of its steps, each of the others has run its first.
func fair(t *testing.T, builds []*loaded) {
	t.Helper()
	worst := 0
	for i, b := range builds {
		if len(b.starts) < steps+1 {
			t.Errorf("build %d told of %d steps", i, len(b.starts))
			return
		}
		for j, other := range builds {
			// How many steps of the other began between two of this one, or before its first?
			last := time.Time{}
			for _, s := range b.starts {
				between := 0
				for _, o := range other.starts {
					if o.After(last) && o.Before(s) {
						between++
					}
				}
				if between > worst {
					worst = between
					t.Logf("build %d began %d steps between two of build %d", j, between, i)
				}
				last = s
			}
		}
	}
	if worst > steps {
		t.Errorf("a build waited while another began all of its steps")
	}
}
