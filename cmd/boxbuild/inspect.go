package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/template"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/cli/templates"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/image"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

type inspectOptions struct{ format, platform string }

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
	cmd.Flags().StringVarP(&o.format, "format", "f", "", inspectHelp)
}

// inspect prints what there is of refs, then says which are not there.
func (a *app) inspect(ctx context.Context, refs []string, opt *inspectOptions) error {
	var platform *boxbuildv1.Platform
	if opt.platform != "" {
		var err error
		if platform, err = parsePlatform(opt.platform); err != nil {
			return err
		}
	}
	return a.inspectEach(ctx, refs, opt.format, func(ctx context.Context, ref string) (*inspected, error) {
		return a.inspectImage(ctx, ref, platform)
	})
}

func (a *app) inspectImage(ctx context.Context, ref string, platform *boxbuildv1.Platform) (*inspected, error) {
	images, err := a.images(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := images.Inspect(ctx, &boxbuildv1.InspectRequest{Ref: ref, Platform: platform})
	if err != nil {
		return nil, err
	}
	detail, err := inspection(resp)
	if err != nil {
		return nil, err
	}
	raw, err := plainJSON(detail)
	if err != nil {
		return nil, err
	}
	return &inspected{detail, raw}, nil
}

// An inspected object is what inspect shows: the typed value is for templates, the JSON for all else.
type inspected struct {
	value any
	raw   []byte
}

// inspectEach prints what find finds of refs, then says which it does not. A daemon that is not there is said once.
func (a *app) inspectEach(
	ctx context.Context, refs []string, format string, find func(ctx context.Context, ref string) (*inspected, error),
) error {
	var tmpl *template.Template
	if format != "" && format != "json" {
		var err error
		if tmpl, err = templates.Parse(format); err != nil {
			return statusError{exitBadFormat, fmt.Sprintf("template parsing error: %v", err)}
		}
	}
	found := []*inspected{}
	var errs []error
	for _, ref := range refs {
		obj, err := find(ctx, ref)
		switch {
		case err != nil && a.conn == nil && a.api == nil:
			return err
		case err != nil:
			errs = append(errs, err)
		default:
			found = append(found, obj)
		}
	}
	return errors.Join(append([]error{printInspected(a.stdout, tmpl, format, found)}, errs...)...)
}

// printInspected prints objects by a template, as JSON on one line, or as JSON for people.
func printInspected(out io.Writer, tmpl *template.Template, format string, found []*inspected) error {
	if tmpl != nil {
		for _, obj := range found {
			if err := obj.execute(out, tmpl); err != nil {
				return err
			}
		}
		return nil
	}
	raw := make([][]byte, len(found))
	for i, obj := range found {
		raw[i] = obj.raw
	}
	list := slices.Concat([]byte("["), bytes.Join(raw, []byte(",")), []byte("]"))
	var b bytes.Buffer
	var err error
	if format == "" {
		err = json.Indent(&b, list, "", "    ")
	} else {
		err = json.Compact(&b, list)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", b.Bytes())
	return err
}

// printJSON prints v as JSON on one line.
func (a *app) printJSON(v any) error {
	text, err := plainJSON(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s\n", text)
	return err
}

// plainJSON is v as JSON in which "&", "<" and ">" are themselves, as in what docker prints.
func plainJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// execute executes tmpl for the object. A field that the type does not have is looked up in the JSON, as in docker.
func (o *inspected) execute(out io.Writer, tmpl *template.Template) error {
	var b bytes.Buffer
	if err := tmpl.Execute(&b, o.value); err != nil {
		var raw any
		dec := json.NewDecoder(bytes.NewReader(o.raw))
		dec.UseNumber() // a float would be printed with an exponent
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		b.Reset()
		if err := tmpl.Option("missingkey=error").Execute(&b, raw); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
	}
	_, err := fmt.Fprintln(out, b.String())
	return err
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
