package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
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

// diskUsage prints what docker prints, with docker's own formatter: a template of the user's is executed for each line,
// or, if verbose, once for an object with all Images, Containers, Volumes and BuildCache.
func (a *app) diskUsage(ctx context.Context, verbose bool, format string) error {
	system, err := a.system(ctx)
	if err != nil {
		return err
	}
	du, err := system.DiskUsage(ctx, &boxbuildv1.DiskUsageRequest{})
	if err != nil {
		return err
	}
	if format = withoutVirtualSize(format); format == "" {
		format = formatter.TableFormatKey
	}
	out := &formatter.DiskUsageContext{
		Context: formatter.Context{Output: a.stdout, Format: formatter.NewDiskUsageFormat(format, verbose)},
		Verbose: verbose,
		ImageDiskUsage: client.ImagesDiskUsage{
			TotalCount: int64(du.GetImages().GetTotal()), ActiveCount: int64(du.GetImages().GetActive()),
			TotalSize: du.GetImages().GetSize(), Reclaimable: du.GetImages().GetReclaimable(),
		},
		BuildCacheDiskUsage: client.BuildCacheDiskUsage{
			TotalCount: int64(du.GetBuildCache().GetTotal()), ActiveCount: int64(du.GetBuildCache().GetActive()),
			TotalSize: du.GetBuildCache().GetSize(), Reclaimable: du.GetBuildCache().GetReclaimable(),
			Items: cacheRecords(du.GetRecords()),
		},
	}
	if err := a.addRuntimeUsage(ctx, out); err != nil {
		return err
	}
	if verbose {
		images, err := a.images(ctx)
		if err != nil {
			return err
		}
		list, err := images.List(ctx, &boxbuildv1.ListRequest{})
		if err != nil {
			return err
		}
		users := make(map[string]int64)
		for i := range out.ContainerDiskUsage.Items {
			users[out.ContainerDiskUsage.Items[i].ImageID]++
		}
		for _, img := range list.GetImages() {
			out.ImageDiskUsage.Items = append(out.ImageDiskUsage.Items, image.Summary{
				ID: img.GetId(), RepoTags: img.GetNames(), RepoDigests: img.GetRepoDigests(),
				Created: img.GetCreated().AsTime().Unix(), Size: img.GetSize(), SharedSize: img.GetSharedSize(),
				Labels: img.GetLabels(), Containers: users[img.GetId()],
			})
		}
	}
	if err := out.Write(); err != nil {
		if strings.Contains(err.Error(), "template") {
			return usagef("%v", err)
		}
		return err
	}
	switch h := du.GetHistory(); {
	case !verbose || format == formatter.RawFormatKey:
	case format != formatter.TableFormatKey:
		fmt.Fprintln(a.stdout)
	case h.GetTotal() > 0:
		// Docker keeps no such thing.
		fmt.Fprintf(a.stdout, "\nBuild history usage: %s of %s, %s reclaimable (boxbuild builds rm)\n",
			units.HumanSize(float64(h.GetSize())), plural(int(h.GetTotal()), "build"), units.HumanSize(float64(h.GetReclaimable())))
	}
	return nil
}

// addRuntimeUsage adds what containers and volumes use. A daemon that runs no containers has none.
func (a *app) addRuntimeUsage(ctx context.Context, out *formatter.DiskUsageContext) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	used, err := api.DiskUsage(ctx, client.DiskUsageOptions{Containers: true, Volumes: true, Verbose: out.Verbose})
	if unserved(err) {
		return nil
	}
	out.ContainerDiskUsage, out.VolumeDiskUsage = used.Containers, used.Volumes
	return err
}

func cacheRecords(in []*boxbuildv1.UsageRecord) []build.CacheRecord {
	out := make([]build.CacheRecord, len(in))
	for i, r := range in {
		out[i] = build.CacheRecord{
			ID: r.GetId(), Type: r.GetType(), Description: r.GetDescription(), InUse: r.GetInUse(), Shared: r.GetShared(),
			Size: r.GetSize(), UsageCount: int(r.GetUses()),
		}
		if p := r.GetParent(); p != "" {
			out[i].Parents = []string{p}
		}
		if t := r.GetCreated(); t != nil {
			out[i].CreatedAt = t.AsTime()
		}
		if t := r.GetLastUsed(); t != nil {
			at := t.AsTime()
			out[i].LastUsedAt = &at
		}
	}
	return out
}
