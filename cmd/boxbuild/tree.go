package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/containerd/platforms"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/term"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A treeRow is a line of images --tree: an image under its names, or below it one of its platforms.
type treeRow struct {
	names         []string
	platform      string
	id            string
	disk, content int64 // bytes: in all, and of its blobs
	used          bool  // by a container
	children      []treeRow
}

// checkTree refuses what docker refuses beside --tree.
func (o *imagesOptions) checkTree() error {
	for flag, set := range map[string]bool{
		"--quiet": o.quiet, "--no-trunc": o.noTrunc, "--show-digest": o.digests, "--format": o.format != "",
	} {
		if set {
			return usagef("%s is not yet supported with --tree", flag)
		}
	}
	return nil
}

// usedImages are the IDs of the images that containers are made of. A daemon that runs no containers has none.
func (a *app) usedImages(ctx context.Context) (map[string]bool, error) {
	api, err := a.engine(ctx)
	if err != nil {
		return nil, err
	}
	list, err := api.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil && !unserved(err) {
		return nil, err
	}
	used := make(map[string]bool, len(list.Items))
	for i := range list.Items {
		used[list.Items[i].ImageID] = true
	}
	return used, nil
}

// treeRows makes an image of each set of names, with the images for the platforms that it has below it.
func treeRows(list []*boxbuildv1.ImageSummary, used map[string]bool) []treeRow {
	var rows []treeRow
	at := map[string]int{}
	for _, img := range list {
		names := make([]string, len(img.GetNames()))
		for i, n := range img.GetNames() {
			names[i] = familiar(n)
		}
		slices.Sort(names)
		key := strings.Join(names, " ")
		i, ok := at[key]
		if !ok || key == "" {
			i = len(rows)
			at[key] = i
			rows = append(rows, treeRow{names: names, id: img.GetId()})
		}
		p := img.GetPlatform()
		child := treeRow{
			platform: platforms.Format(ocispec.Platform{
				OS: p.GetOs(), Architecture: p.GetArchitecture(), Variant: p.GetVariant(), OSVersion: p.GetOsVersion(),
			}),
			id: img.GetId(), disk: img.GetSize() + img.GetContentSize(), content: img.GetContentSize(),
			used: used[img.GetId()],
		}
		rows[i].disk += child.disk
		rows[i].content += child.content
		rows[i].used = rows[i].used || child.used
		rows[i].children = append(rows[i].children, child)
	}
	slices.SortStableFunc(rows, func(a, b treeRow) int {
		if empty := cmp.Compare(len(b.names), 0) - cmp.Compare(len(a.names), 0); empty != 0 {
			return empty // without a name last
		}
		return slices.Compare(a.names, b.names)
	})
	return rows
}

// treeWidths are those of docker's columns after the first: ID, disk usage, content size.
var treeWidths = [...]int{12, 10, 12}

// printTree prints images as docker's --tree does.
func (a *app) printTree(rows []treeRow) {
	width := len("IMAGE")
	for _, r := range rows {
		for _, n := range r.shown() {
			width = max(width, len(n))
		}
		for _, c := range r.children {
			width = max(width, utf8.RuneCountInString("└─ ")+len(c.platform))
		}
	}
	f, ok := a.stdout.(interface{ Fd() uintptr })
	bold := func(s string) string { return s }
	if ok && term.IsTerminal(int(f.Fd())) && a.env.Getenv("NO_COLOR") == "" {
		bold = func(s string) string { return "\x1b[34;1m" + s + "\x1b[0m" }
	}
	fmt.Fprintf(a.stdout, "%-*s   %-*s   %*s   %*s   EXTRA\n", width, "IMAGE",
		treeWidths[0], "ID", treeWidths[1], "DISK USAGE", treeWidths[2], "CONTENT SIZE")
	for _, r := range rows {
		names := r.shown()
		for i, n := range names {
			fmt.Fprint(a.stdout, bold(n)+strings.Repeat(" ", width-len(n)))
			if i < len(names)-1 {
				fmt.Fprintln(a.stdout)
			}
		}
		r.print(a.stdout)
		for i, c := range r.children {
			branch := "├─ "
			if i == len(r.children)-1 {
				branch = "└─ "
			}
			text := branch + c.platform
			fmt.Fprint(a.stdout, text+strings.Repeat(" ", width-utf8.RuneCountInString(text)))
			c.print(a.stdout)
		}
		fmt.Fprintln(a.stdout)
	}
}

// shown are the names that are printed.
func (r *treeRow) shown() []string {
	if len(r.names) == 0 {
		return []string{"<untagged>"}
	}
	return r.names
}

// print prints all columns but the first.
func (r *treeRow) print(out io.Writer) {
	extra := ""
	if r.used {
		extra = "U"
	}
	fmt.Fprintf(out, "   %-*s   %*s   %*s   %-*s\n", treeWidths[0], formatter.TruncateID(r.id),
		treeWidths[1], units.HumanSizeWithPrecision(float64(r.disk), 3),
		treeWidths[2], units.HumanSizeWithPrecision(float64(r.content), 3), len("EXTRA"), extra)
}
