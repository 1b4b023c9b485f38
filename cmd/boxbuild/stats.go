package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// repaint is how often the table is painted.
const repaint = 500 * time.Millisecond

// statsOptions are the flags of stats.
type statsOptions struct {
	all, noStream, noTrunc bool
	format                 string
}

func (a *app) statsCommand() *cobra.Command {
	var opt statsOptions
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Display a live stream of container(s) resource usage statistics",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.stats(cmd.Context(), &opt, args)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.all, "all", "a", false, "Show all containers (default shows just running)")
	f.BoolVar(&opt.noStream, "no-stream", false, "Disable streaming stats and only pull the first result")
	f.BoolVar(&opt.noTrunc, "no-trunc", false, "Do not truncate output")
	f.StringVar(&opt.format, "format", "", formatHelp)
	return cmd
}

// stats shows what containers use: those that are named, else all that run, also those that are started meanwhile.
func (a *app) stats(ctx context.Context, opt *statsOptions, names []string) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	format := opt.format
	if format == "" {
		file, err := loadDockerConfig()
		if err != nil {
			return err
		}
		format = file.StatsFormat
	}
	if format == "" || format == formatter.TableFormatKey {
		format = statsTable
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &monitor{api: api, stream: !opt.noStream}
	defer m.readers.Wait()
	defer cancel()
	var lost <-chan error
	if len(names) == 0 {
		lost, err = m.watch(ctx, opt.all)
	} else {
		err = m.named(ctx, names)
	}
	if err != nil {
		return err
	}
	show := func(out io.Writer) error {
		ctx := formatter.Context{Output: out, Format: formatter.Format(format), Trunc: !opt.noTrunc}
		return writeList(ctx, statsHeader, m.samples(), func(s sample) formatter.SubContext { return &statsRow{s: s, trunc: !opt.noTrunc} })
	}
	if opt.noStream {
		return show(a.stdout)
	}
	return a.repaint(ctx, show, lost, func() bool { return len(names) > 0 && m.empty() })
}

// repaint shows the table again and again: each time over the last, on a screen that is cleared as far as need be.
func (a *app) repaint(ctx context.Context, show func(io.Writer) error, lost <-chan error, over func() bool) error {
	ticker := time.NewTicker(repaint)
	defer ticker.Stop()
	for {
		var table, frame bytes.Buffer
		if err := show(&table); err != nil {
			return err
		}
		frame.WriteString("\x1b[H")
		frame.Write(bytes.ReplaceAll(table.Bytes(), []byte("\n"), []byte("\x1b[K\n")))
		frame.WriteString("\x1b[J")
		if _, err := a.stdout.Write(frame.Bytes()); err != nil || over() {
			return err
		}
		select {
		case <-ticker.C:
		case err := <-lost:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// A monitor has the last sample of each container that is shown. Its readers end with their context.
type monitor struct {
	api     *client.Client
	stream  bool // go on after the first sample
	readers sync.WaitGroup

	mu   sync.Mutex // guards what is below
	rows []*row
}

// A row is a container that is shown. The monitor's mutex guards it.
type row struct {
	name   string // as the user or the daemon named it
	last   sample
	err    error         // why there is no sample
	first  chan struct{} // closed with the first sample, or when there will be none
	cancel context.CancelFunc
}

// named shows containers by name, and waits until there is something of each to be shown.
func (m *monitor) named(ctx context.Context, names []string) error {
	for _, name := range names {
		m.add(ctx, name)
	}
	m.settle(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, r := range m.rows {
		errs = append(errs, r.err)
	}
	return errors.Join(errs...)
}

// watch shows the containers that run, or all, and follows what starts and ends. The channel has how that is lost.
func (m *monitor) watch(ctx context.Context, all bool) (<-chan error, error) {
	begin, end := []events.Action{events.ActionStart}, []events.Action{events.ActionDestroy}
	if all {
		begin = append(begin, events.ActionCreate)
	} else {
		end = append(end, events.ActionDie)
	}
	lost := make(chan error, 1)
	if m.stream {
		// The events come before the list, so that nothing is missed between them.
		r := m.api.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).Add("type", string(events.ContainerEventType))})
		m.readers.Go(func() {
			for {
				select {
				case e := <-r.Messages:
					switch {
					case slices.Contains(begin, e.Action):
						m.add(ctx, e.Actor.ID)
					case slices.Contains(end, e.Action):
						m.remove(func(r *row) bool { return r.name == e.Actor.ID })
					}
				case err := <-r.Err:
					if errors.Is(err, io.EOF) {
						err = nil
					}
					lost <- err
					return
				}
			}
		})
	}
	list, err := m.api.ContainerList(ctx, client.ContainerListOptions{All: all})
	if err != nil {
		return nil, err
	}
	for _, c := range list.Items {
		m.add(ctx, c.ID)
	}
	m.settle(ctx)
	return lost, nil
}

// add starts to read the samples of a container, unless they are being read.
func (m *monitor) add(ctx context.Context, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.ContainsFunc(m.rows, func(r *row) bool { return r.name == name }) {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &row{name: name, first: make(chan struct{}), cancel: cancel, last: sample{Container: name, Invalid: true}}
	m.rows = append(m.rows, r)
	m.readers.Go(func() { m.read(ctx, r) })
}

func (m *monitor) remove(which func(r *row) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = slices.DeleteFunc(m.rows, func(r *row) bool {
		if which(r) {
			r.cancel()
			return true
		}
		return false
	})
}

// read reads samples until the daemon or ctx ends that.
func (m *monitor) read(ctx context.Context, r *row) {
	settled := sync.OnceFunc(func() { close(r.first) })
	defer settled()
	defer r.cancel()
	fail := func(err error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		r.err, r.last = err, sample{Container: r.name, Name: r.last.Name, ID: r.last.ID, Invalid: true}
	}
	resp, err := m.api.ContainerStats(ctx, r.name, client.ContainerStatsOptions{Stream: m.stream, IncludePreviousSample: !m.stream})
	if err != nil {
		fail(err)
		return
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var v container.StatsResponse
		if err := dec.Decode(&v); err != nil {
			if errors.Is(err, io.EOF) {
				m.remove(func(other *row) bool { return other == r }) // it is gone; one of its name may have come since
			} else {
				fail(err)
			}
			return
		}
		s := newSample(r.name, &v)
		m.mu.Lock()
		r.last, r.err = s, nil
		m.mu.Unlock()
		settled()
		if !m.stream {
			return
		}
	}
}

// settle waits until there is something to be shown of each container.
func (m *monitor) settle(ctx context.Context) {
	m.mu.Lock()
	rows := slices.Clone(m.rows)
	m.mu.Unlock()
	for _, r := range rows {
		select {
		case <-r.first:
		case <-ctx.Done():
		}
	}
}

func (m *monitor) samples() []sample {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []sample
	for _, r := range m.rows {
		out = append(out, r.last)
	}
	return out
}

func (m *monitor) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.rows) == 0
}
