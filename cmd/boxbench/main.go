// Boxbench times boxbuild beside whichever other image builders are on PATH: buildctl with buildkitd, buildah, podman.
//
// Each case is a Dockerfile with a context. A round runs the case once on every builder in turn, so that whatever else
// the machine does falls on all of them alike; the first round warms up and is not counted. The warm-up's
// result is checked. What is printed are medians in seconds and the ratio to boxbuild's.
//
// Every builder gets a state directory of its own, and every daemon that boxbench starts is ended. The base is a
// busybox from a Debian package, as a tar in each context, so that no registry is needed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/boxbuild/boxbuild/cmd/internal/bases"
)

func main() {
	rounds := flag.Int("n", 5, "rounds that count")
	only := flag.String("run", ".", "regular expression of the cases to run")
	peers := flag.String("peers", "boxbuild,buildctl,buildah,podman", "builders to run, if they are on PATH")
	dir := flag.String("dir", "", "directory for contexts and state, which are removed at the end; the default is $TMPDIR or /tmp")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, settings{*rounds, *only, *dir, strings.Split(*peers, ",")}); err != nil {
		fmt.Fprintln(os.Stderr, "boxbench:", err)
		stop()
		os.Exit(1)
	}
}

// settings are the flags.
type settings struct {
	rounds int
	only   string
	dir    string
	peers  []string
}

func bench(ctx context.Context, set settings) (err error) {
	re, err := regexp.Compile(set.only)
	if err != nil {
		return err
	}
	base, ok := bases.Tar("busybox")
	if !ok {
		return fmt.Errorf("no base image at %s: run `make bases`", base)
	}
	dir, err := os.MkdirTemp(set.dir, "boxbench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	var running []builder
	for _, n := range set.peers {
		b := newBuilder(n, filepath.Join(dir, n))
		if b == nil {
			continue
		}
		defer b.stop() // also one that started and did not get as far as to listen
		if err := b.start(ctx); err != nil {
			return fmt.Errorf("starting %s: %w", n, err)
		}
		running = append(running, b)
	}
	if len(running) == 0 {
		return errors.New("no builder is on PATH")
	}
	var rows []row
	for _, c := range cases {
		if !re.MatchString(c.name) {
			continue
		}
		r, err := measure(ctx, c, running, set.rounds, filepath.Join(dir, "context-"+c.name), base)
		if err != nil {
			return fmt.Errorf("case %s: %w", c.name, err)
		}
		rows = append(rows, r)
	}
	print(running, rows)
	for _, b := range running {
		if m, ok := b.(interface{ memory() (int64, error) }); ok {
			if n, err := m.memory(); err == nil {
				fmt.Printf("daemon of %s after all this: %d MB resident\n", b.name(), n>>20)
			}
		}
	}
	return nil
}

// A row is a case's medians in seconds, by builder; a negative one is a builder that failed the case.
type row struct {
	name    string
	medians []float64
	notes   []string
}

func measure(ctx context.Context, c benchCase, builders []builder, rounds int, dir, base string) (row, error) {
	r := row{name: c.name, medians: make([]float64, len(builders))}
	times := make([][]float64, len(builders))
	for i := range builders {
		if err := c.prepare(filepath.Join(dir, builders[i].name()), base); err != nil {
			return r, err
		}
	}
	failed := make([]bool, len(builders))
	for round := -1; round < rounds; round++ {
		for i, b := range builders {
			if failed[i] {
				continue
			}
			t, err := c.once(ctx, b, filepath.Join(dir, b.name()), round)
			if ctx.Err() != nil {
				return r, ctx.Err()
			}
			tell(c.name, b.name(), round, t, err)
			if err != nil {
				failed[i] = true
				r.notes = append(r.notes, fmt.Sprintf("%s: %v", b.name(), err))
				continue
			}
			if round >= 0 {
				times[i] = append(times[i], t.Seconds())
			}
		}
	}
	for i := range builders {
		if r.medians[i] = -1; !failed[i] && len(times[i]) > 0 {
			slices.Sort(times[i])
			r.medians[i] = times[i][len(times[i])/2]
		}
	}
	return r, nil
}

// tell reports progress.
func tell(name, builder string, round int, t time.Duration, err error) {
	what := fmt.Sprintf("round %d", round+1)
	if round < 0 {
		what = "warm-up"
	}
	result := fmt.Sprintf("%.3f s", t.Seconds())
	if err != nil {
		result = "failed: " + err.Error()
	}
	fmt.Fprintf(os.Stderr, "%s, %s, %s: %s\n", name, builder, what, result)
}

func print(builders []builder, rows []row) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "case\t")
	for _, b := range builders {
		fmt.Fprintf(w, "%s\t", b.name())
	}
	for _, b := range builders[1:] {
		fmt.Fprintf(w, "%s ratio\t", b.name())
	}
	fmt.Fprintln(w)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t", r.name)
		for _, m := range r.medians {
			if m < 0 {
				fmt.Fprint(w, "failed\t")
			} else {
				fmt.Fprintf(w, "%.3f\t", m)
			}
		}
		for _, m := range r.medians[1:] {
			if m < 0 || r.medians[0] <= 0 {
				fmt.Fprint(w, "\t")
			} else {
				fmt.Fprintf(w, "%.1f×\t", m/r.medians[0])
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	for _, r := range rows {
		for _, n := range r.notes {
			fmt.Printf("%s: %s\n", r.name, n)
		}
	}
}

// timed runs fn and says how long it took.
func timed(fn func() error) (time.Duration, error) {
	start := time.Now()
	err := fn()
	return time.Since(start), err
}
