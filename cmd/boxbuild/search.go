package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// searchTable is docker's.
const searchTable = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"

func (a *app) searchCommand() *cobra.Command {
	filter := opts.NewFilterOpt()
	var noTrunc bool
	var limit int
	var format string
	cmd := &cobra.Command{
		Use:   "search [OPTIONS] TERM",
		Short: "Search Docker Hub for images",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(filter.Value()["is-automated"]) > 0 {
				fmt.Fprintln(a.stderr, `WARNING: the "is-automated" filter is deprecated, and searching for "is-automated=true" will not yield any results in future.`)
			}
			found, err := a.search(cmd.Context(), args[0], client.ImageSearchOptions{Filters: filter.Value(), Limit: limit})
			if err != nil {
				return err
			}
			if format == "" || format == formatter.TableFormatKey {
				format = searchTable
			}
			return writeList(formatter.Context{Output: a.stdout, Format: formatter.Format(format), Trunc: !noTrunc},
				searchHeader, found, func(r registry.SearchResult) formatter.SubContext {
					return &searchRow{result: r, trunc: !noTrunc}
				})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.VarP(&filter, "filter", "f", "Filter output based on conditions provided")
	f.IntVar(&limit, "limit", 0, "Max number of search results")
	f.StringVar(&format, "format", "", "Pretty-print search using a Go template")
	return cmd
}

// search asks the daemon, with what the user has for the registry that the term names.
func (a *app) search(ctx context.Context, term string, opt client.ImageSearchOptions) ([]registry.SearchResult, error) {
	host, _, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host = ""
	}
	cred, err := credentialsFor(host)
	if err != nil {
		return nil, err
	}
	if opt.RegistryAuth, err = authconfig.Encode(registry.AuthConfig{
		Username: cred.GetUsername(), Password: cred.GetPassword(), Auth: cred.GetAuth(),
		IdentityToken: cred.GetIdentityToken(), RegistryToken: cred.GetRegistryToken(),
	}); err != nil {
		return nil, err
	}
	api, err := a.engine(ctx)
	if err != nil {
		return nil, err
	}
	r, err := api.ImageSearch(ctx, term, opt)
	return r.Items, err
}

var searchHeader = formatter.SubHeaderContext{
	"Name": formatter.NameHeader, "Description": formatter.DescriptionHeader, "StarCount": "STARS", "IsOfficial": "OFFICIAL",
}

// A searchRow is an image that was found, in the fields of docker's templates.
type searchRow struct {
	formatter.HeaderContext
	result      registry.SearchResult
	trunc, json bool
}

// MarshalJSON implements json.Marshaler.
func (r *searchRow) MarshalJSON() ([]byte, error) {
	r.json = true
	return formatter.MarshalJSON(r)
}

// Name is the image's.
func (r *searchRow) Name() string { return r.result.Name }

// Description is on one line.
func (r *searchRow) Description() string {
	s := strings.NewReplacer("\n", " ", "\r", " ").Replace(r.result.Description)
	if r.trunc {
		s = formatter.Ellipsis(s, 45)
	}
	return s
}

// StarCount is how many like it.
func (r *searchRow) StarCount() string { return strconv.Itoa(r.result.StarCount) }

// IsOfficial is "[OK]" or nothing, and a word in JSON.
func (r *searchRow) IsOfficial() string {
	switch {
	case r.json:
		return strconv.FormatBool(r.result.IsOfficial)
	case r.result.IsOfficial:
		return "[OK]"
	}
	return ""
}
