package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

type pruneOptions struct {
	request     *boxbuildv1.PruneRequest
	all, force  bool
	filters     []string
	keepStorage string
	what        string // for the question: "all dangling images"
	whatAll     string
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
		f.Bool("volumes", false, "Prune anonymous volumes") // of which there are none
		_ = f.MarkHidden("volumes")                         // it exists
	}
	if cache {
		f.StringVar(&opt.keepStorage, "keep-storage", "", "Amount of disk space to keep for the build cache")
	}
	return cmd
}

func (a *app) prune(ctx context.Context, opt *pruneOptions) error {
	if err := opt.parse(); err != nil {
		return err
	}
	what := opt.what
	if opt.all {
		what = opt.whatAll
	}
	if !opt.force {
		ok, err := a.confirm(ctx, fmt.Sprintf("WARNING! This will remove %s.\nAre you sure you want to continue? [y/N] ", what))
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("prune has been cancelled")
		}
	}
	system, err := a.system(ctx)
	if err != nil {
		return err
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
	fmt.Fprintln(a.stdout, "Total reclaimed space:", units.HumanSize(float64(rep.GetFreed())))
	return nil
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
	if o.keepStorage != "" {
		n, err := units.RAMInBytes(o.keepStorage)
		if err != nil {
			return usagef("invalid --keep-storage %q: %v", o.keepStorage, err)
		}
		o.request.KeepBytes = n
	}
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
