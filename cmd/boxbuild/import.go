package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

type importOptions struct {
	source, name string
	changes      []string
	message      string
	platform     string
}

func (a *app) importCommand() *cobra.Command {
	var opt importOptions
	cmd := &cobra.Command{
		Use:                   "import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
		Short:                 "Import the contents from a tarball to create a filesystem image",
		Args:                  cobra.MatchAll(oneOrMore, maxArgs(2)),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.source = args[0]
			if len(args) > 1 {
				opt.name = args[1]
			}
			if !cmd.Flags().Changed("platform") {
				opt.platform = a.cfg.Platform
			}
			return a.importImage(cmd.Context(), &opt)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&opt.changes, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	f.StringVarP(&opt.message, "message", "m", "", "Set commit message for imported image")
	f.StringVar(&opt.platform, "platform", "", "Set the platform of the image")
	return cmd
}

func (a *app) importImage(ctx context.Context, opt *importOptions) error {
	start := &boxbuildv1.ImportOptions{Name: opt.name, Message: opt.message, Changes: opt.changes}
	if opt.platform != "" {
		var err error
		if start.Platform, err = parsePlatform(opt.platform); err != nil {
			return err
		}
	}
	source, err := a.openSource(ctx, opt.source)
	if err != nil {
		return err
	}
	defer source.Close()
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	// When the source fails in the middle, the call must not look complete to the daemon.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := images.Import(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&boxbuildv1.ImportInput{Input: &boxbuildv1.ImportInput_Start{Start: start}}); err != nil {
		return streamError(err, stream)
	}
	resp, err := exchange(stream, source)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, resp.GetId())
	return nil
}

// exchange sends the source and returns the answer. A daemon that has heard enough, or goes down, is heard at once: the
// source may be one that says nothing for long.
func exchange(stream boxbuildv1.Images_ImportClient, source io.Reader) (*boxbuildv1.ImportResponse, error) {
	sent, received := make(chan error, 1), make(chan error, 1)
	resp := new(boxbuildv1.ImportResponse)
	go func() {
		err := sendAll(source, func(p []byte) error {
			return stream.Send(&boxbuildv1.ImportInput{Input: &boxbuildv1.ImportInput_Data{Data: p}})
		})
		if err == nil {
			err = stream.CloseSend()
		}
		sent <- err
	}()
	go func() { received <- stream.RecvMsg(resp) }()
	select {
	case err := <-sent:
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return resp, <-received
	case err := <-received:
		return resp, err
	}
}

// openSource opens a file, standard input, or what a URL names. The client downloads it itself: the daemon would do so
// with its own place in the network, which is not the client's to use.
func (a *app) openSource(ctx context.Context, source string) (io.ReadCloser, error) {
	switch {
	case source == "-":
		return io.NopCloser(a.stdin), nil
	case isHTTP(source):
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
		if err != nil {
			return nil, usageError{message: err.Error()}
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, fmt.Errorf("downloading: %w", err)
		}
		if resp.StatusCode != http.StatusOK {
			_ = resp.Body.Close() // what it says does not matter
			return nil, fmt.Errorf("downloading %s: %s", req.URL.Redacted(), resp.Status)
		}
		return resp.Body, nil
	}
	return os.Open(source)
}
