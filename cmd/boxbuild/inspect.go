package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/cli/templates"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/image"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

type inspectOptions struct {
	format, platform string
	// object is what is inspected, of which no error is to say that it is an image; "" for an image, as such.
	object string
}

func (a *app) inspectCommand() *cobra.Command {
	var opt inspectOptions
	cmd := &cobra.Command{
		Use:                   "inspect [OPTIONS] IMAGE [IMAGE...]",
		Short:                 "Display detailed information on one or more images",
		Args:                  oneOrMore,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inspect(cmd.Context(), args, &opt)
		},
	}
	opt.register(cmd)
	cmd.Flags().StringVar(&opt.platform, "platform", "", `Inspect a specific platform of the multi-platform image.
If the image or the server is not multi-platform capable, the command will error out if the platform does not match.
'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)`)
	return cmd
}

func (o *inspectOptions) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates`)
}

// objectTypes are those that docker inspects. There are images only.
var objectTypes = []string{
	"config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume",
}

// inspectAnyCommand is docker's inspect of whatever has that name.
func (a *app) inspectAnyCommand() *cobra.Command {
	var opt inspectOptions
	cmd := &cobra.Command{
		Use:                   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short:                 "Return low-level information on objects",
		Args:                  oneOrMore,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			list := strings.Join(objectTypes, `", "`)
			switch {
			case cmd.Flags().Changed("type") && opt.object == "":
				return usagef(`type is empty: must be one of "%s"`, list)
			case opt.object != "" && !slices.Contains(objectTypes, opt.object):
				return usagef(`unknown type: %q: must be one of "%s"`, opt.object, list)
			case opt.object == "":
				opt.object = "object"
			}
			return a.inspect(cmd.Context(), args, &opt)
		},
	}
	opt.register(cmd)
	cmd.Flags().StringVar(&opt.object, "type", "", "Only inspect objects of the given type")
	cmd.Flags().BoolP("size", "s", false, "Display total file sizes if the type is container")
	return cmd
}

// find asks for one image. There is nothing else to be found.
func (o *inspectOptions) find(ctx context.Context, images boxbuildv1.ImagesClient, req *boxbuildv1.InspectRequest) (*boxbuildv1.InspectResponse, error) {
	switch o.object {
	case "", "image":
		return images.Inspect(ctx, req)
	case "object":
		resp, err := images.Inspect(ctx, req)
		if err != nil && boxbuildv1.KindOf(err) == boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND {
			return nil, fmt.Errorf("Error: No such object: %s", req.GetRef())
		}
		return resp, err
	}
	return nil, fmt.Errorf("Error: No such %s: %s", o.object, req.GetRef())
}

// inspect prints what there is of refs, then says which are not there.
func (a *app) inspect(ctx context.Context, refs []string, opt *inspectOptions) error {
	format := opt.format
	var platform *boxbuildv1.Platform
	if opt.platform != "" {
		var err error
		if platform, err = parsePlatform(opt.platform); err != nil {
			return err
		}
	}
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
		resp, err := opt.find(ctx, images, &boxbuildv1.InspectRequest{Ref: ref, Platform: platform})
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
