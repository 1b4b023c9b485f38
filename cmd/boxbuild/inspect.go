package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/template"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/cli/templates"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/image"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) inspectCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:                   "inspect [OPTIONS] IMAGE [IMAGE...]",
		Short:                 "Display detailed information on one or more images",
		Args:                  oneOrMore,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inspect(cmd.Context(), args, format)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates`)
	return cmd
}

// inspect prints what there is of refs, then says which are not there.
func (a *app) inspect(ctx context.Context, refs []string, format string) error {
	var tmpl *template.Template
	if format != "" && format != "json" {
		var err error
		if tmpl, err = templates.Parse(format); err != nil {
			return usagef("template parsing error: %v", err)
		}
	}
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	found := []*image.InspectResponse{}
	var errs []error
	for _, ref := range refs {
		resp, err := images.Inspect(ctx, &boxbuildv1.InspectRequest{Ref: ref})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		detail, err := inspection(resp)
		if err != nil {
			return err
		}
		found = append(found, detail)
	}
	switch {
	case tmpl != nil:
		err = printTemplate(a.stdout, tmpl, found)
	case format == "json":
		err = json.NewEncoder(a.stdout).Encode(found)
	default:
		var text []byte
		if text, err = json.MarshalIndent(found, "", "    "); err == nil {
			_, err = fmt.Fprintf(a.stdout, "%s\n", text)
		}
	}
	return errors.Join(append([]error{err}, errs...)...)
}

// printTemplate executes tmpl for each image. A field that the type does not have is looked up in the JSON, as in docker.
func printTemplate(out io.Writer, tmpl *template.Template, found []*image.InspectResponse) error {
	for _, img := range found {
		var b bytes.Buffer
		if err := tmpl.Execute(&b, img); err != nil {
			text, jsonErr := json.Marshal(img)
			var raw any
			if jsonErr == nil {
				jsonErr = json.Unmarshal(text, &raw)
			}
			if jsonErr != nil {
				return jsonErr
			}
			b.Reset()
			if err := tmpl.Option("missingkey=error").Execute(&b, raw); err != nil {
				return fmt.Errorf("template parsing error: %w", err)
			}
		}
		fmt.Fprintln(out, b.String())
	}
	return nil
}

// inspection is an image as docker shows it.
func inspection(resp *boxbuildv1.InspectResponse) (*image.InspectResponse, error) {
	var config dockerspec.DockerOCIImage
	if err := json.Unmarshal(resp.GetConfig(), &config); err != nil {
		return nil, fmt.Errorf("reading the configuration of the image: %w", err)
	}
	sum := resp.GetSummary()
	out := &image.InspectResponse{
		ID: sum.GetId(), RepoTags: []string{}, RepoDigests: []string{},
		Author: config.Author, Config: &config.Config, Architecture: config.Architecture, Variant: config.Variant,
		Os: config.OS, OsVersion: config.OSVersion, Size: sum.GetSize(),
		RootFS:   image.RootFS{Type: "layers", Layers: resp.GetLayers()},
		Metadata: image.Metadata{},
	}
	if n := len(config.History); n > 0 {
		out.Comment = config.History[n-1].Comment
	}
	if t := sum.GetCreated(); t != nil {
		out.Created = t.AsTime().Format(time.RFC3339Nano)
	}
	if t := resp.GetLastTagged(); t != nil {
		out.Metadata.LastTagTime = t.AsTime()
	}
	for _, n := range sum.GetNames() {
		out.RepoTags = append(out.RepoTags, familiar(n))
	}
	for _, d := range sum.GetRepoDigests() {
		out.RepoDigests = append(out.RepoDigests, familiar(d))
	}
	return out, nil
}

// familiar shortens a canonical reference as docker does.
func familiar(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(named)
}
