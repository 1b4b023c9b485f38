package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// chunkSize is how many bytes of an archive go into one message.
const chunkSize = 256 << 10

type loadOptions struct {
	input     string
	platforms []string
	quiet     bool
}

func (a *app) loadCommand() *cobra.Command {
	var opt loadOptions
	cmd := &cobra.Command{
		Use:                   "load [OPTIONS]",
		Short:                 "Load an image from a tar archive or STDIN",
		Args:                  noArgs,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.load(cmd.Context(), &opt)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&opt.input, "input", "i", "", "Read from tar archive file, instead of STDIN")
	f.BoolVarP(&opt.quiet, "quiet", "q", false, "Suppress the load output")
	f.StringSliceVar(&opt.platforms, "platform", nil, `Load only the given platform(s). Formatted as a comma-separated list of "os[/arch[/variant]]"`)
	return cmd
}

func (a *app) load(ctx context.Context, opt *loadOptions) error {
	input := a.stdin
	if opt.input != "" && opt.input != "-" {
		f, err := os.Open(opt.input)
		if err != nil {
			return err
		}
		defer f.Close()
		input = f
	} else if f, ok := input.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return errors.New("requested load from stdin, but stdin is empty")
	}
	start := &boxbuildv1.LoadOptions{Quiet: opt.quiet}
	var err error
	if start.Platforms, err = parsePlatforms(opt.platforms); err != nil {
		return err
	}
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	stream, err := images.Load(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&boxbuildv1.LoadInput{Input: &boxbuildv1.LoadInput_Start{Start: start}}); err != nil {
		return streamError(err, stream)
	}
	sent := make(chan error, 1)
	go func() {
		err := sendAll(input, func(p []byte) error {
			return stream.Send(&boxbuildv1.LoadInput{Input: &boxbuildv1.LoadInput_Data{Data: p}})
		})
		if err == nil {
			err = stream.CloseSend()
		}
		sent <- err
	}()
	return a.loaded(stream, opt.quiet, sent)
}

// loaded prints what the daemon says. A daemon that has heard enough ends the stream, so that what it says counts before
// an error of sending; an archive that cannot be read ends it from this side.
func (a *app) loaded(stream boxbuildv1.Images_LoadClient, quiet bool, sent <-chan error) error {
	lines := a.transferLines(quiet, "Loading", "Loaded")
	received := make(chan *boxbuildv1.LoadOutput)
	failed := make(chan error, 1)
	go func() {
		for {
			out, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			received <- out
		}
	}()
	for {
		select {
		case err := <-sent:
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			sent = nil
		case err := <-failed:
			return err
		case out := <-received:
			switch o := out.GetOutput().(type) {
			case *boxbuildv1.LoadOutput_Status:
				lines.status(o.Status)
			case *boxbuildv1.LoadOutput_Loaded:
				for _, img := range o.Loaded.GetImages() {
					if img.GetName() == "" {
						fmt.Fprintln(a.stdout, "Loaded image ID:", img.GetId())
					} else {
						fmt.Fprintln(a.stdout, "Loaded image:", img.GetName())
					}
				}
				return nil
			}
		}
	}
}

// sendAll sends what r has, a chunk at a time. io.EOF means that the other side takes no more.
func sendAll(r io.Reader, send func([]byte) error) error {
	for {
		// A new buffer each time: gRPC may still be reading the last one.
		buf := make([]byte, chunkSize)
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading the archive: %w", err)
		}
	}
}
