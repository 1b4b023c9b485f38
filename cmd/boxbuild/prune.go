package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

type pruneOptions struct {
	request     *boxbuildv1.PruneRequest
	all, force  bool
	filters     []string
	keepStorage opts.MemBytes
	what        string // for the question: "all dangling images"
	whatAll     string
	everything  bool // containers and networks too
	volumes     bool // and anonymous volumes
}

// pruneCommand prunes images, the build cache, or both.
func (a *app) pruneCommand(short string, images, cache bool) *cobra.Command {
	opt := pruneOptions{request: &boxbuildv1.PruneRequest{Images: images, Cache: cache}}
	var what, all []string
	if images {
		what, all = append(what, "all dangling images"), append(all, "all images without a container")
	}
	if cache {
		what, all = append(what, "unused build cache"), append(all, "all build cache")
	}
	opt.what, opt.whatAll = strings.Join(what, " and "), strings.Join(all, " and ")
	cmd := &cobra.Command{
		Use:                   "prune [OPTIONS]",
		Short:                 short,
		Args:                  noArgs,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.prune(cmd.Context(), &opt)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.all, "all", "a", false, "Remove all unused, not just what is dangling")
	f.BoolVarP(&opt.force, "force", "f", false, "Do not prompt for confirmation")
	f.StringArrayVar(&opt.filters, "filter", nil, `Provide filter values (e.g. "until=24h", "label=<key>=<value>")`)
	if images && cache {
		opt.everything = true
		f.BoolVar(&opt.volumes, "volumes", false, "Prune anonymous volumes")
	}
	if cache {
		f.Var(&opt.keepStorage, "keep-storage", "Amount of disk space to keep for the build cache")
	}
	return cmd
}

func (a *app) prune(ctx context.Context, opt *pruneOptions) error {
	if err := opt.parse(); err != nil {
		return err
	}
	if !opt.force {
		ok, err := a.confirm(ctx, "WARNING! This will remove"+opt.question()+"\nAre you sure you want to continue? [y/N] ")
		if err != nil {
			return err
		}
		if !ok {
			return silentError{0} // it was done as the user wishes
		}
	}
	system, err := a.system(ctx)
	if err != nil {
		return err
	}
	var freed uint64
	if opt.everything {
		// What containers are of goes after them.
		if freed, err = a.pruneRuntime(ctx, opt); err != nil {
			return err
		}
	}
	rep, err := system.Prune(ctx, opt.request)
	if err != nil {
		return err
	}
	if len(rep.GetImages()) > 0 {
		fmt.Fprintln(a.stdout, "Deleted Images:")
		for _, r := range rep.GetImages() {
			if r.GetUntagged() != "" {
				fmt.Fprintln(a.stdout, "untagged:", r.GetUntagged())
			} else {
				fmt.Fprintln(a.stdout, "deleted:", r.GetDeleted())
			}
		}
		fmt.Fprintln(a.stdout)
	}
	if len(rep.GetCache()) > 0 {
		fmt.Fprintln(a.stdout, "Deleted build cache objects:")
		for _, id := range rep.GetCache() {
			fmt.Fprintln(a.stdout, id)
		}
		fmt.Fprintln(a.stdout)
	}
	fmt.Fprintln(a.stdout, "Total reclaimed space:", units.HumanSize(float64(rep.GetFreed())+float64(freed)))
	return nil
}

// question is what the user is asked, after "This will remove".
func (o *pruneOptions) question() string {
	what := o.what
	if o.all {
		what = o.whatAll
	}
	if !o.everything {
		return " " + what + "."
	}
	list := []string{"all stopped containers", "all networks not used by at least one container"}
	if o.volumes {
		list = append(list, "all anonymous volumes not used by at least one container")
	}
	list = append(list, strings.Split(what, " and ")...)
	text := ":\n  - " + strings.Join(list, "\n  - ") + "\n"
	if len(o.filters) > 0 {
		text += "\n  Items to be pruned will be filtered with:\n  - " + strings.Join(o.filters, "\n  - ") + "\n"
	}
	return text
}

// pruneRuntime removes containers, networks and, if that is wanted, volumes that are not in use, and returns how many
// bytes that freed. A daemon that runs no containers has none of them.
func (a *app) pruneRuntime(ctx context.Context, opt *pruneOptions) (uint64, error) {
	filters := make(client.Filters)
	for _, f := range opt.filters {
		key, value, _ := strings.Cut(f, "=") // it has been parsed
		if key == "unused-for" {
			key = "until"
		}
		filters.Add(key, value)
	}
	freed, err := a.pruneContainers(ctx, filters)
	if unserved(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	r, err := a.api.NetworkPrune(ctx, client.NetworkPruneOptions{Filters: filters})
	if err != nil && !unserved(err) {
		return freed, err
	}
	a.printDeleted("Deleted Networks:", r.Report.NetworksDeleted)
	if !opt.volumes {
		return freed, nil
	}
	more, err := a.pruneVolumes(ctx, false, filters)
	return freed + more, err
}

// withoutLabel is the request's form of the filter "label!=key[=value]".
func withoutLabel(label string) string {
	if key, value, ok := strings.Cut(label, "="); ok {
		return key + "!=" + value
	}
	return label + "!"
}

func (o *pruneOptions) parse() error {
	o.request.All = o.all
	for _, f := range o.filters {
		key, value, ok := strings.Cut(f, "=")
		switch {
		case key == "until" && o.volumes:
			return usagef(`the "until" filter is not supported with "--volumes"`)
		case key == "until" && ok, key == "unused-for" && ok:
			d, err := since(value)
			if err != nil {
				return usagef("invalid filter %q: %v", f, err)
			}
			o.request.KeepForSeconds = int64(d.Seconds())
		case key == "label" && ok:
			o.request.Labels = append(o.request.Labels, value)
		case key == "label!" && ok:
			o.request.Labels = append(o.request.Labels, withoutLabel(value))
		default:
			return usagef("invalid filter %q", f)
		}
	}
	o.request.KeepBytes = o.keepStorage.Value()
	return nil
}

// since reads how long ago a time is: a duration, a date, or RFC 3339.
func since(s string) (time.Duration, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return d, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return max(time.Since(t), 0), nil
		}
	}
	return 0, errors.New("neither a duration nor a time")
}

// confirm asks the user. No answer means no.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(a.stdout, question)
	line := make(chan string, 1)
	// The reader ends with the program at the latest: there is no way to interrupt a read from a terminal.
	go func() {
		s, err := bufio.NewReader(a.stdin).ReadString('\n')
		if err != nil {
			s = strings.TrimSpace(s)
		}
		line <- s
	}()
	select {
	case s := <-line:
		s = strings.ToLower(strings.TrimSpace(s))
		return s == "y" || s == "yes", nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
