package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// remoteRegexp are the forms of a context that is not a directory: a URL, a Git remote without a scheme, and GitHub's name.
// What such a one is exactly, the daemon decides.
var remoteRegexp = regexp.MustCompile(`^([a-zA-Z0-9+]+://|[a-zA-Z0-9-_]+@[a-zA-Z0-9-.]+:|github\.com/)`)

// isRemote says whether a context is fetched by the daemon. A directory of that name goes first.
func isRemote(ctx string) bool {
	if st, err := os.Stat(ctx); err == nil && st.IsDir() {
		return false
	}
	return remoteRegexp.MatchString(ctx)
}

// planRemote sets a context that the daemon fetches. The Dockerfile is in it, unless it is standard input or a URL, or has an absolute
// path.
func (a *app) planRemote(req *boxbuildv1.BuildRequest, opt *buildOptions) error {
	front := req.Frontend
	front.Context = &boxbuildv1.Frontend_ContextUrl{ContextUrl: opt.context}
	if opt.file == "-" || isHTTP(opt.file) || filepath.IsAbs(opt.file) {
		return a.planDockerfile(req, opt)
	}
	front.Filename = opt.file
	return nil
}

// planLayout sets a named context that is an image of an OCI layout, "path[:tag][@digest]". What a tag means is decided
// here; the daemon checks every digest.
func (a *app) planLayout(req *boxbuildv1.BuildRequest, name, spec string) (string, error) {
	rest, dgst, hasDigest := strings.Cut(spec, "@")
	path, tag, hasTag := strings.Cut(rest, ":")
	dir, err := directory("oci-layout-"+strconv.Itoa(len(req.Directories)), path)
	if err != nil {
		return "", fmt.Errorf("ERROR: failed to build: unable to prepare context %s: %w", name, err)
	}
	if !hasDigest {
		if dgst, err = layoutDigest(path, tag, hasTag); err != nil {
			return "", fmt.Errorf("ERROR: failed to build: oci-layout reference %q could not be resolved: %w", spec, err)
		}
	}
	req.Directories = append(req.Directories, dir)
	return "oci-layout://" + dir.Name + "@" + dgst, nil
}

// layoutDigest finds an image by its tag in the index of a layout. Without a tag it is the latest, or the only one.
func layoutDigest(path, tag string, hasTag bool) (string, error) {
	data, err := os.ReadFile(filepath.Join(path, "index.json"))
	if err != nil {
		return "", err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(data, &idx); err != nil {
		return "", fmt.Errorf("reading index.json: %w", err)
	}
	if !hasTag {
		tag = "latest"
	}
	for _, d := range idx.Manifests {
		for _, key := range []string{ocispec.AnnotationRefName, "io.containerd.image.name"} {
			if v := d.Annotations[key]; v == tag || strings.HasSuffix(v, ":"+tag) {
				return d.Digest.String(), nil
			}
		}
	}
	if !hasTag && len(idx.Manifests) == 1 {
		return idx.Manifests[0].Digest.String(), nil
	}
	return "", fmt.Errorf("there is no image with tag %q among its %d", tag, len(idx.Manifests))
}

// contextUpload is how the daemon calls standard input.
const contextUpload = "context"

// planStdin sets a context that is standard input: an archive, or else the Dockerfile of a build without files.
func (a *app) planStdin(plan *buildPlan, opt *buildOptions) error {
	if opt.file == "-" {
		return usagef("invalid argument: can't use stdin for both build context and dockerfile")
	}
	front := plan.request.Frontend
	in := bufio.NewReaderSize(a.stdin, archiveHead)
	head, err := in.Peek(archiveHead)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading standard input: %w", err)
	}
	if isArchive(head) {
		front.Context = &boxbuildv1.Frontend_ContextUpload{ContextUpload: contextUpload}
		plan.upload = in
		if isHTTP(opt.file) {
			return a.planDockerfile(plan.request, opt)
		}
		front.Filename = opt.file
		return nil
	}
	if opt.file != "" {
		return usagef("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
	}
	text, err := readDockerfile(in, fromStdin)
	if err != nil {
		return err
	}
	front.Dockerfile = &boxbuildv1.Frontend_Text{Text: text}
	return nil
}

// stdinDockerfile reads a Dockerfile from standard input.
func (a *app) stdinDockerfile() ([]byte, error) {
	text, err := readDockerfile(a.stdin, fromStdin)
	if err == nil && isArchive(text) {
		return nil, usagef("standard input is an archive, and not a Dockerfile")
	}
	return text, err
}

// isHTTP says whether a file is one that this program downloads.
func isHTTP(file string) bool {
	return strings.HasPrefix(file, "http://") || strings.HasPrefix(file, "https://")
}

// fetchDockerfile downloads a Dockerfile that is named by a URL. As with import, it is this program's place in the network
// that counts.
func (a *app) fetchDockerfile(ctx context.Context, opt *buildOptions) error {
	if !isHTTP(opt.file) {
		return nil
	}
	body, err := a.openSource(ctx, opt.file)
	if err == nil {
		defer body.Close()
		opt.fetched, err = readDockerfile(body, "its URL")
	}
	if err != nil {
		return fmt.Errorf("ERROR: failed to build: failed to read dockerfile: %w", err)
	}
	return nil
}

// fromStdin is how messages call standard input.
const fromStdin = "standard input"

// readDockerfile reads all of a Dockerfile, which is not too large; from says where it is from.
func readDockerfile(r io.Reader, from string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the Dockerfile from %s: %w", from, err)
	case len(text) > maxDockerfile:
		return nil, usagef("the Dockerfile from %s is larger than %s", from, units.BytesSize(maxDockerfile))
	}
	return text, nil
}

// archiveHead is how much of an archive is looked at, in bytes. The header of a tar may come after blocks about it.
const archiveHead = 16 << 10

// isArchive says whether b begins as a tar does, or one of the usual compressions. The daemon, which gets it, has the same
// rule.
func isArchive(b []byte) bool {
	for _, magic := range []string{"\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(b, []byte(magic)) {
			return true
		}
	}
	_, err := tar.NewReader(bytes.NewReader(b)).Next()
	return err == nil || errors.Is(err, tar.ErrInsecurePath)
}

// upload sends standard input to the daemon. When that is over it does not wait for whoever writes standard input.
func (s *buildStream) upload(stream boxbuildv1.Builds_ChannelClient, r io.Reader) error {
	ctx := stream.Context()
	parts := make(chan upPart)
	// A read of standard input ends with that, or with the program, and with nothing else.
	go func() {
		for {
			buf := make([]byte, chunkSize)
			n, err := io.ReadFull(r, buf)
			select {
			case parts <- upPart{buf[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		var p upPart
		select {
		case p = <-parts:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if len(p.data) > 0 {
			if err := stream.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Data{Data: p.data}}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(p.err, io.EOF), errors.Is(p.err, io.ErrUnexpectedEOF):
			return stream.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Eof{Eof: true}})
		case p.err != nil:
			return fmt.Errorf("reading standard input: %w", p.err)
		}
	}
}

// An upPart is what one read of standard input has brought.
type upPart struct {
	data []byte
	err  error
}
