package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

type historyOptions struct {
	human, quiet, noTrunc bool
	format, platform      string
}

func (a *app) historyCommand() *cobra.Command {
	var opt historyOptions
	cmd := &cobra.Command{
		Use:                   "history [OPTIONS] IMAGE",
		Short:                 "Show the history of an image",
		Args:                  exactArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.history(cmd.Context(), args[0], &opt)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.human, "human", "H", true, "Print sizes and dates in human readable format")
	f.BoolVarP(&opt.quiet, "quiet", "q", false, "Only show image IDs")
	f.BoolVar(&opt.noTrunc, "no-trunc", false, "Don't truncate output")
	f.StringVar(&opt.format, "format", "", formatHelp)
	f.StringVar(&opt.platform, "platform", "", `Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	return cmd
}

// A historyRow is a line of history; its fields are what templates use.
type historyRow struct {
	Comment, CreatedAt, CreatedBy, CreatedSince, ID, Size string
}

// FullHeader implements formatter.SubContext.
func (historyRow) FullHeader() any {
	return historyRow{
		ID: "IMAGE", CreatedSince: "CREATED", CreatedAt: "CREATED AT", CreatedBy: "CREATED BY", Size: "SIZE",
		Comment: "COMMENT",
	}
}

func (a *app) history(ctx context.Context, ref string, opt *historyOptions) error {
	req := &boxbuildv1.HistoryRequest{Ref: ref}
	var err error
	if opt.platform != "" {
		if req.Platform, err = parsePlatform(opt.platform); err != nil {
			return err
		}
	}
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	resp, err := images.History(ctx, req)
	if err != nil {
		return err
	}
	format := opt.format
	if format == "" || format == formatter.TableFormatKey {
		switch {
		case opt.quiet:
			format = formatter.DefaultQuietFormat
		case opt.human:
			format = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
		default:
			format = "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
		}
	}
	out := make([]historyRow, len(resp.GetEntries()))
	for i, e := range resp.GetEntries() {
		out[i] = opt.row(e)
	}
	return writeRows(a.stdout, format, out)
}

// oldest is the time before which docker shows no age.
var oldest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (o *historyOptions) row(e *boxbuildv1.HistoryEntry) historyRow {
	at := e.GetCreated().AsTime()
	r := historyRow{
		ID: e.GetId(), CreatedAt: at.Local().Format(time.RFC3339), CreatedBy: strings.ReplaceAll(e.GetCreatedBy(), "\t", " "),
		Size: strconv.FormatInt(e.GetSize(), 10), Comment: e.GetComment(),
	}
	r.CreatedSince = r.CreatedAt
	if o.human {
		r.Size = units.HumanSizeWithPrecision(float64(e.GetSize()), 3)
		r.CreatedSince = "N/A"
		if at.After(oldest) {
			r.CreatedSince = ago(at)
		}
	}
	if !o.noTrunc {
		r.ID = formatter.TruncateID(r.ID)
		r.CreatedBy = formatter.Ellipsis(r.CreatedBy, 45)
	}
	return r
}

func ago(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }
