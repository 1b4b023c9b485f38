package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) buildsCommand() *cobra.Command {
	return group("builds COMMAND", "Manage builds that run and those of the past",
		a.buildsListCommand(), a.buildsInspectCommand(), a.buildsLogsCommand(), a.buildsAttachCommand(),
		a.buildsUpdateCommand("rm", "Remove builds of the past, with their logs", true, func(req *boxbuildv1.UpdateBuildRequest) {
			req.Action = &boxbuildv1.UpdateBuildRequest_Remove{Remove: true}
		}),
		a.buildsUpdateCommand("stop", "Cancel builds that run", false, func(req *boxbuildv1.UpdateBuildRequest) {
			req.Action = &boxbuildv1.UpdateBuildRequest_Cancel{Cancel: true}
		}),
		a.buildsUpdateCommand("pin", "Keep builds until they are removed", false, func(req *boxbuildv1.UpdateBuildRequest) {
			req.Action = &boxbuildv1.UpdateBuildRequest_Pin{Pin: true}
		}),
		a.buildsUpdateCommand("unpin", "Keep builds no longer than others", false, func(req *boxbuildv1.UpdateBuildRequest) {
			req.Action = &boxbuildv1.UpdateBuildRequest_Pin{}
		}))
}

func (a *app) builds(ctx context.Context) (boxbuildv1.BuildsClient, error) {
	conn, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return boxbuildv1.NewBuildsClient(conn), nil
}

// buildsUpdateCommand is a command that does something to builds and prints their IDs.
func (a *app) buildsUpdateCommand(
	name, short string, hasAll bool, action func(*boxbuildv1.UpdateBuildRequest),
) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: name + " BUILD [BUILD...]", Short: short, DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case !all:
				return oneOrMore(cmd, args)
			case len(args) > 0:
				return usagef("--all takes no builds")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.updateBuilds(cmd.Context(), args, all, action)
		},
	}
	if hasAll {
		cmd.Use = name + " [OPTIONS] BUILD [BUILD...]"
		cmd.Flags().BoolVar(&all, "all", false, "All builds that have ended and are not pinned")
	}
	return cmd
}

// updateBuilds does what it can, and says of the rest why it cannot.
func (a *app) updateBuilds(
	ctx context.Context, refs []string, all bool, action func(*boxbuildv1.UpdateBuildRequest),
) error {
	builds, err := a.builds(ctx)
	if err != nil {
		return err
	}
	var requests []*boxbuildv1.UpdateBuildRequest
	for _, ref := range refs {
		requests = append(requests, &boxbuildv1.UpdateBuildRequest{Builds: []string{ref}})
	}
	if all {
		requests = append(requests, &boxbuildv1.UpdateBuildRequest{All: true})
	}
	var errs []error
	for _, req := range requests {
		action(req)
		resp, err := builds.UpdateBuild(ctx, req)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, id := range resp.GetBuilds() {
			fmt.Fprintln(a.stdout, id)
		}
	}
	return errors.Join(errs...)
}

type buildsListOptions struct {
	format  string
	quiet   bool
	noTrunc bool
	filters []string
}

func (a *app) buildsListCommand() *cobra.Command {
	var opt buildsListOptions
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Short: "List builds", Aliases: []string{"list"}, Args: noArgs, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.listBuilds(cmd.Context(), &opt) },
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.quiet, "quiet", "q", false, "Only display build IDs")
	f.BoolVar(&opt.noTrunc, "no-trunc", false, "Don't truncate output")
	f.StringArrayVarP(&opt.filters, "filter", "f", nil, `Filter output (e.g., "status=running", "id=PREFIX", "name=TEXT", "pinned=true")`)
	f.StringVar(&opt.format, "format", "", formatHelp)
	return cmd
}

// A buildRow is a line of the list of builds; its fields are what templates use.
type buildRow struct {
	ID, Name, Status, Created, CreatedAt, Ended, Duration, Steps, Cached, Warnings, Tags, Pinned, Error string
}

// FullHeader implements formatter.SubContext.
func (buildRow) FullHeader() any {
	return buildRow{
		ID: "BUILD ID", Name: "NAME", Status: "STATUS", Created: "CREATED", CreatedAt: "CREATED AT", Ended: "ENDED",
		Duration: "DURATION", Steps: "STEPS", Cached: "CACHED", Warnings: "WARNINGS", Tags: "TAGS", Pinned: "PINNED", Error: "ERROR",
	}
}

func (a *app) listBuilds(ctx context.Context, opt *buildsListOptions) error {
	match, err := buildFilter(opt.filters)
	if err != nil {
		return err
	}
	builds, err := a.builds(ctx)
	if err != nil {
		return err
	}
	resp, err := builds.ListBuilds(ctx, &boxbuildv1.ListBuildsRequest{})
	if err != nil {
		return err
	}
	format := opt.format
	switch {
	case opt.quiet:
		format = formatter.DefaultQuietFormat
	case format == "" || format == formatter.TableFormatKey:
		format = "table {{.ID}}\t{{.Name}}\t{{.Status}}\t{{.Created}}\t{{.Duration}}\t{{.Steps}}"
	}
	rows := []buildRow{}
	for _, b := range resp.GetBuilds() {
		if match(b) {
			rows = append(rows, opt.row(b))
		}
	}
	return writeRows(a.stdout, format, rows)
}

// buildStatuses are what a build can be.
var buildStatuses = []string{"running", "completed", "error", "canceled"}

// buildFilter returns what says whether a build is to be listed: all filters have to match.
func buildFilter(list []string) (func(*boxbuildv1.BuildRecord) bool, error) {
	var all []func(*boxbuildv1.BuildRecord) bool
	for _, f := range list {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return nil, usagef("invalid filter %q: want NAME=VALUE", f)
		}
		var m func(*boxbuildv1.BuildRecord) bool
		switch key {
		case "status":
			if !slices.Contains(buildStatuses, value) {
				return nil, usagef("invalid filter 'status=%s': there are %s", value, strings.Join(buildStatuses, ", "))
			}
			m = func(b *boxbuildv1.BuildRecord) bool { return b.GetStatus() == value }
		case "id":
			m = func(b *boxbuildv1.BuildRecord) bool { return strings.HasPrefix(b.GetId(), value) }
		case "name":
			m = func(b *boxbuildv1.BuildRecord) bool { return strings.Contains(buildName(b), value) }
		case "pinned":
			m = func(b *boxbuildv1.BuildRecord) bool { return fmt.Sprint(b.GetPinned()) == value }
		default:
			return nil, usagef("invalid filter %q: there are id, name, pinned and status", key)
		}
		all = append(all, m)
	}
	return func(b *boxbuildv1.BuildRecord) bool {
		for _, m := range all {
			if !m(b) {
				return false
			}
		}
		return true
	}, nil
}

// shortBuildID is how many characters of an ID a list shows.
const shortBuildID = 12

func (o *buildsListOptions) row(b *boxbuildv1.BuildRecord) buildRow {
	created := b.GetCreated().AsTime()
	r := buildRow{
		ID: b.GetId(), Name: buildName(b), Status: b.GetStatus(), Created: ago(created), CreatedAt: created.Local().Format(time.RFC3339),
		Duration: duration(buildTime(b)), Steps: fmt.Sprintf("%d/%d", b.GetCompletedSteps(), b.GetTotalSteps()),
		Cached: fmt.Sprint(b.GetCachedSteps()), Warnings: fmt.Sprint(b.GetWarnings()), Tags: strings.Join(b.GetTags(), ","),
		Pinned: fmt.Sprint(b.GetPinned()), Error: b.GetError().GetMessage(),
	}
	if b.GetEnded() != nil {
		r.Ended = b.GetEnded().AsTime().Local().Format(time.RFC3339)
	}
	if !o.noTrunc {
		if len(r.ID) > shortBuildID {
			r.ID = r.ID[:shortBuildID]
		}
		r.Name = formatter.Ellipsis(r.Name, 40)
	}
	return r
}

// buildTime is how long a build took, or has been running.
func buildTime(b *boxbuildv1.BuildRecord) time.Duration {
	end := time.Now()
	if b.GetEnded() != nil {
		end = b.GetEnded().AsTime()
	}
	return max(0, end.Sub(b.GetCreated().AsTime()))
}

// duration is a time as people read it: 0.3s, 5.0s, 2m 10s.
func duration(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	if d < time.Hour {
		return fmt.Sprintf("%dm %ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return units.HumanDuration(d)
}

// buildName is what a build is of: the image, or else where it was built from, and the stage.
func buildName(b *boxbuildv1.BuildRecord) string {
	if len(b.GetTags()) > 0 {
		return strings.Join(b.GetTags(), ", ")
	}
	for _, o := range b.GetOutputs() {
		if n := o.GetAttrs()["name"]; n != "" {
			return n
		}
	}
	attrs := b.GetAttrs()
	name := attrs["context"]
	if dir := attrs["localdir:context"]; name == "" && dir != "" {
		name = filepath.Base(dir)
	}
	if name == "-" {
		name = "stdin"
	}
	if name == "" && b.GetFrontend() != "dockerfile.v0" {
		name = b.GetFrontend()
	}
	if f := attrs["filename"]; f != "" && (f != "Dockerfile" || name == "") {
		name = filepath.Join(name, f)
	}
	name = cmp.Or(name, "Dockerfile")
	if t := attrs["target"]; t != "" {
		name += " (" + t + ")"
	}
	return name
}
