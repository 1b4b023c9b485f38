package main

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/moby/moby/api/types/image"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// formatHelp is docker's help of --format.
const formatHelp = `Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates`

type imagesOptions struct {
	match              string
	all, quiet         bool
	noTrunc, digests   bool
	tree               bool
	format             string
	filters            []string
	dangling           string // "true", "false" or ""
	labels, references []string
	before, since      string
	until              time.Time // zero for any
}

func (a *app) imagesCommand() *cobra.Command {
	var opt imagesOptions
	cmd := &cobra.Command{
		Use:                   "images [OPTIONS] [REPOSITORY[:TAG]]",
		Short:                 "List images",
		Args:                  maxArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opt.match = args[0]
			}
			return a.listImages(cmd.Context(), &opt)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.quiet, "quiet", "q", false, "Only show image IDs")
	f.BoolVarP(&opt.all, "all", "a", false, "Show all images (default hides dangling images)")
	f.BoolVar(&opt.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVar(&opt.digests, "digests", false, "Show digests")
	f.StringVar(&opt.format, "format", "", formatHelp)
	f.BoolVar(&opt.tree, "tree", false, "List multi-platform images as a tree (EXPERIMENTAL)")
	f.StringArrayVarP(&opt.filters, "filter", "f", nil, "Filter output based on conditions provided")
	return cmd
}

func (a *app) listImages(ctx context.Context, opt *imagesOptions) error {
	if err := opt.parseFilters(); err != nil {
		return err
	}
	if opt.tree {
		if err := opt.checkTree(); err != nil {
			return err
		}
	}
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	resp, err := images.List(ctx, &boxbuildv1.ListRequest{})
	if err != nil {
		return err
	}
	own := resp.GetPlatform()
	if opt.tree {
		own = nil
	}
	list, err := opt.choose(resp.GetImages(), own)
	if err != nil {
		return err
	}
	if opt.tree {
		used, err := a.usedImages(ctx)
		if err != nil {
			return err
		}
		a.printTree(treeRows(list, used))
		return nil
	}
	format := opt.format
	if format == "" && !opt.quiet {
		file, err := loadDockerConfig()
		if err != nil {
			return err
		}
		format = file.ImagesFormat
	}
	format = withoutVirtualSize(cmp.Or(format, formatter.TableFormatKey))
	return formatter.ImageWrite(formatter.ImageContext{
		Context: formatter.Context{
			Output: a.stdout,
			Format: formatter.NewImageFormat(format, opt.quiet, opt.digests),
			Trunc:  !opt.noTrunc,
		},
		Digest: opt.digests,
	}, rows(list))
}

// virtualSize is a field that images had up to docker 28; it is the size.
var virtualSize = regexp.MustCompile(`\.VirtualSize\b`)

func withoutVirtualSize(format string) string { return virtualSize.ReplaceAllString(format, ".Size") }

// daemonRefuses is what docker's daemon would say: filters of images are this program's work here.
func daemonRefuses(format string, args ...any) error {
	return fmt.Errorf("Error response from daemon: "+format, args...)
}

func (o *imagesOptions) parseFilters() error {
	if o.match != "" {
		o.references = append(o.references, o.match)
	}
	for _, f := range o.filters {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return usagef("invalid argument %q for \"-f, --filter\" flag: invalid filter format (should be name=[value])", f)
		}
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "dangling":
			switch value {
			case "true", "1":
				o.dangling = "true"
			case "false", "0":
				o.dangling = "false"
			default:
				return daemonRefuses("invalid filter 'dangling=%s'", value)
			}
		case "label":
			o.labels = append(o.labels, value)
		case "before":
			o.before = value
		case "since":
			o.since = value
		case "until":
			age, err := since(value)
			if err != nil {
				return daemonRefuses("invalid filter 'until=%s': %v", value, err)
			}
			o.until = time.Now().Add(-age)
		case "reference":
			o.references = append(o.references, value)
		default:
			return daemonRefuses("invalid filter '%s'", key)
		}
	}
	return nil
}

// standing leaves each name to one of its images, which stands for those for other platforms: that for own, the daemon's
// platform, or the first. An image that has nothing but such names is not there any more.
func standing(all []*boxbuildv1.ImageSummary, own *boxbuildv1.Platform) []*boxbuildv1.ImageSummary {
	suits := func(img *boxbuildv1.ImageSummary) bool {
		p := img.GetPlatform()
		return p.GetOs() == own.GetOs() && p.GetArchitecture() == own.GetArchitecture()
	}
	owner := make(map[string]*boxbuildv1.ImageSummary) // by name
	for _, img := range all {
		for _, n := range img.GetNames() {
			if o := owner[n]; o == nil || suits(img) && !suits(o) {
				owner[n] = img
			}
		}
	}
	out := make([]*boxbuildv1.ImageSummary, 0, len(all))
	for _, img := range all {
		names := slices.DeleteFunc(slices.Clone(img.GetNames()), func(n string) bool { return owner[n] != img })
		if len(names) > 0 || len(img.GetNames()) == 0 {
			out = append(out, called(img, names, img.GetRepoDigests()))
		}
	}
	return out
}

// called returns img with other names and digests.
func called(img *boxbuildv1.ImageSummary, names, digests []string) *boxbuildv1.ImageSummary {
	return &boxbuildv1.ImageSummary{
		Id: img.GetId(), Names: names, RepoDigests: digests, Created: img.GetCreated(), Size: img.GetSize(), NameDigests: img.GetNameDigests(),
		SharedSize: img.GetSharedSize(), ContentSize: img.GetContentSize(), Labels: img.GetLabels(), Platform: img.GetPlatform(),
	}
}

// choose returns the images that the user wants to see, the newest first: one for each name, as standing says, unless own
// is nil.
func (o *imagesOptions) choose(all []*boxbuildv1.ImageSummary, own *boxbuildv1.Platform) ([]*boxbuildv1.ImageSummary, error) {
	list := all
	if own != nil {
		list = standing(all, own)
	}
	known := slices.Concat(list, all) // a name is first of all the one that is shown; an ID may be of one that is not
	before, err := created(known, o.before)
	if err != nil {
		return nil, err
	}
	since, err := created(known, o.since)
	if err != nil {
		return nil, err
	}
	var out []*boxbuildv1.ImageSummary
	for _, img := range list {
		dangling := len(img.GetNames())+len(img.GetRepoDigests()) == 0
		at := img.GetCreated().AsTime()
		switch {
		case o.dangling == "true" && !dangling, o.dangling == "false" && dangling:
		case dangling && !o.all && o.dangling != "true":
		case !o.until.IsZero() && !at.Before(o.until):
		case o.before != "" && !at.Before(before), o.since != "" && !at.After(since):
		case !hasLabels(img.GetLabels(), o.labels):
		default:
			if named := o.named(img); named != nil {
				out = append(out, named)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *boxbuildv1.ImageSummary) int {
		return b.GetCreated().AsTime().Compare(a.GetCreated().AsTime())
	})
	return out, nil
}

// named returns img with the names that the user wants, and the digests in their repositories and those that are wanted
// themselves; nil if it has none.
func (o *imagesOptions) named(img *boxbuildv1.ImageSummary) *boxbuildv1.ImageSummary {
	if len(o.references) == 0 {
		return img
	}
	wanted := func(ref string) bool {
		return slices.ContainsFunc(o.references, func(pattern string) bool { return matchesReference(pattern, ref) })
	}
	var names, digests []string
	repos := make(map[string]bool)
	for _, n := range img.GetNames() {
		if wanted(n) {
			names = append(names, n)
			repos[repoOf(n)] = true
		}
	}
	for _, d := range img.GetRepoDigests() {
		if repos[repoOf(d)] || wanted(d) {
			digests = append(digests, d)
		}
	}
	if names == nil && digests == nil {
		return nil
	}
	return called(img, names, digests)
}

// matchesReference says whether a pattern (path.Match syntax, with or without tag and domain) matches a name.
func matchesReference(pattern, name string) bool {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return false
	}
	if ok, err := reference.FamiliarMatch(pattern, ref); err == nil && ok {
		return true
	}
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

// created finds when the image of that name or ID was made; the zero time for no name.
func created(all []*boxbuildv1.ImageSummary, ref string) (time.Time, error) {
	if ref == "" {
		return time.Time{}, nil
	}
	want := ref
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		want = reference.TagNameOnly(named).String()
	}
	for _, img := range all {
		hex := strings.TrimPrefix(img.GetId(), "sha256:")
		if slices.Contains(img.GetNames(), want) || (len(ref) >= 4 && strings.HasPrefix(hex, strings.TrimPrefix(ref, "sha256:"))) {
			return img.GetCreated().AsTime(), nil
		}
	}
	return time.Time{}, daemonRefuses("No such image: %s", ref)
}

// hasLabels says whether labels have all of want: "key" or "key=value".
func hasLabels(labels map[string]string, want []string) bool {
	for _, w := range want {
		k, v, withValue := strings.Cut(w, "=")
		if got, ok := labels[k]; !ok || (withValue && got != v) {
			return false
		}
	}
	return true
}

// rows turns images into what docker's formatter takes: one image for each name with the digest that the registry has under
// it, or those of the repository where that is not known, and one for each repository that has digests alone. The formatter
// itself prints the repositories of one image in random order, and every tag with every digest.
func rows(list []*boxbuildv1.ImageSummary) []image.Summary {
	var out []image.Summary
	for _, img := range list {
		row := image.Summary{
			ID: img.GetId(), Created: img.GetCreated().AsTime().Unix(), Size: img.GetSize(),
			SharedSize: img.GetSharedSize(), Labels: img.GetLabels(), Containers: -1,
		}
		digests := make(map[string][]string) // by repository
		var repos []string                   // those that have digests
		for _, d := range img.GetRepoDigests() {
			repo := repoOf(d)
			if digests[repo] == nil {
				repos = append(repos, repo)
			}
			digests[repo] = append(digests[repo], d)
		}
		named := make(map[string]bool)
		for _, n := range img.GetNames() {
			repo := repoOf(n)
			named[repo] = true
			next := row
			next.RepoTags, next.RepoDigests = []string{n}, digests[repo]
			if d, ok := img.GetNameDigests()[n]; ok {
				next.RepoDigests = nil
				if d != "" {
					next.RepoDigests = []string{repo + "@" + d}
				}
			}
			out = append(out, next)
		}
		for _, repo := range repos {
			if !named[repo] {
				next := row
				next.RepoDigests = digests[repo]
				out = append(out, next)
			}
		}
		if len(img.GetNames())+len(repos) == 0 {
			out = append(out, row)
		}
	}
	return out
}

// repoOf returns the repository of a canonical reference.
func repoOf(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return named.Name()
}
