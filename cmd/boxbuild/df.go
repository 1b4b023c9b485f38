package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) dfCommand() *cobra.Command {
	var verbose bool
	var format string
	cmd := &cobra.Command{
		Use:                   "df [OPTIONS]",
		Short:                 "Show disk usage",
		Args:                  noArgs,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.diskUsage(cmd.Context(), verbose, format)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Show detailed information on space usage")
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	return cmd
}

// A usageRow is a line of df; its fields are what templates use.
type usageRow struct {
	Active, Reclaimable, Size, TotalCount, Type string
}

// FullHeader implements formatter.SubContext.
func (usageRow) FullHeader() any {
	return usageRow{Type: "TYPE", TotalCount: "TOTAL", Active: "ACTIVE", Size: "SIZE", Reclaimable: "RECLAIMABLE"}
}

// A cacheRow is a record of the build cache.
type cacheRow struct {
	CacheType, CreatedAt, CreatedSince, Description, ID, InUse, LastUsedAt, LastUsedSince, Parent, Shared, Size, UsageCount string
}

// FullHeader implements formatter.SubContext.
func (cacheRow) FullHeader() any {
	return cacheRow{
		ID: "CACHE ID", Parent: "PARENT", CacheType: "CACHE TYPE", Size: "SIZE", CreatedSince: "CREATED",
		CreatedAt: "CREATED AT", LastUsedSince: "LAST USED", LastUsedAt: "LAST USED AT", UsageCount: "USAGE",
		Shared: "SHARED", InUse: "IN USE", Description: "DESCRIPTION",
	}
}

func (a *app) diskUsage(ctx context.Context, verbose bool, format string) error {
	system, err := a.system(ctx)
	if err != nil {
		return err
	}
	du, err := system.DiskUsage(ctx, &boxbuildv1.DiskUsageRequest{})
	if err != nil {
		return err
	}
	if verbose {
		return a.verboseUsage(ctx, du, format)
	}
	if format == "" || format == formatter.TableFormatKey {
		format = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
	}
	return writeRows(a.stdout, format, []usageRow{
		usage("Images", du.GetImages()), usage("Build Cache", du.GetBuildCache()),
	})
}

func usage(name string, c *boxbuildv1.UsageClass) usageRow {
	reclaimable := units.HumanSize(float64(c.GetReclaimable()))
	if c.GetSize() > 0 {
		reclaimable = fmt.Sprintf("%s (%d%%)", reclaimable, c.GetReclaimable()*100/c.GetSize())
	}
	return usageRow{
		Type: name, TotalCount: strconv.Itoa(int(c.GetTotal())), Active: strconv.Itoa(int(c.GetActive())),
		Size: units.HumanSize(float64(c.GetSize())), Reclaimable: reclaimable,
	}
}

// verboseUsage prints every image and every record of the build cache. A format is for the latter only.
func (a *app) verboseUsage(ctx context.Context, du *boxbuildv1.DiskUsageResponse, format string) error {
	records := make([]cacheRow, len(du.GetRecords()))
	for i, r := range du.GetRecords() {
		records[i] = cacheRow{
			ID: formatter.Ellipsis(r.GetId(), 12), Parent: formatter.Ellipsis(r.GetParent(), 12), CacheType: r.GetType(),
			Size: units.HumanSize(float64(r.GetSize())), UsageCount: strconv.Itoa(int(r.GetUses())),
			Shared: strconv.FormatBool(r.GetShared()), InUse: strconv.FormatBool(r.GetInUse()), Description: r.GetDescription(),
		}
		if t := r.GetCreated(); t != nil {
			records[i].CreatedAt, records[i].CreatedSince = t.AsTime().String(), ago(t.AsTime())
		}
		if t := r.GetLastUsed(); t != nil {
			records[i].LastUsedAt, records[i].LastUsedSince = t.AsTime().String(), ago(t.AsTime())
		}
	}
	if format != "" && format != formatter.TableFormatKey {
		return writeRows(a.stdout, format, records)
	}
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	list, err := images.List(ctx, &boxbuildv1.ListRequest{})
	if err != nil {
		return err
	}
	fmt.Fprint(a.stdout, "Images space usage:\n\n")
	if err := formatter.ImageWrite(formatter.ImageContext{Context: formatter.Context{
		Output: a.stdout, Trunc: true,
		Format: "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}",
	}}, rows(list.GetImages())); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "\nBuild cache usage: %s\n\n", units.HumanSize(float64(du.GetBuildCache().GetSize())))
	return writeRows(a.stdout,
		"table {{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}", records)
}
