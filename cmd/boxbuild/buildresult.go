package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// checkFiles says whether what a build is to write about its result can be written: to learn that afterwards is late.
func (o *buildOptions) checkFiles() error {
	for _, f := range []struct{ what, path string }{{"image ID", o.iidFile}, {"metadata", o.metadataFile}} {
		if f.path == "" {
			continue
		}
		if err := writable(f.path); err != nil {
			return fmt.Errorf("ERROR: failed to build: cannot write the %s: %w", f.what, err)
		}
	}
	return nil
}

// writable says whether a file can be written, by writeFile's ways.
func writable(path string) error {
	switch st, err := os.Stat(path); {
	case err == nil && st.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: unix.EISDIR}
	case err == nil && !st.Mode().IsRegular(): // a device or a pipe, which is opened itself
		if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
			return &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return nil
	}
	dir := filepath.Dir(path)
	st, err := os.Stat(dir)
	var cause *fs.PathError
	switch {
	case errors.As(err, &cause):
		return &fs.PathError{Op: "open", Path: path, Err: cause.Err}
	case err == nil && !st.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	case err == nil:
		if err = unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
			err = &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
	return err
}

// removeStale removes a regular file that a build is to write.
func removeStale(file string) error {
	if fi, err := os.Stat(file); file == "" || err != nil || !fi.Mode().IsRegular() {
		return nil //nolint:nilerr // there is nothing, or writing it will say what is wrong
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing what an earlier build wrote: %w", err)
	}
	return nil
}

// buildDone writes what the user wants to know of a build that went well.
func (a *app) buildDone(opt *buildOptions, res *boxbuildv1.BuildResult) error {
	id := imageID(res)
	if id != "" {
		if err := opt.writeID(id); err != nil {
			return err
		}
	}
	if err := opt.writeMetadata(metadata(res.GetMetadata())); err != nil {
		return err
	}
	if opt.quiet && id != "" {
		fmt.Fprintln(a.stdout, id)
	}
	return nil
}

// writeID writes the image ID to the file that the user wants it in.
func (o *buildOptions) writeID(id string) error {
	if o.iidFile == "" {
		return nil
	}
	if err := writeFile(o.iidFile, 0o666&^umask(), strings.NewReader(id)); err != nil {
		return fmt.Errorf("writing the image ID: %w", err)
	}
	return nil
}

// writeMetadata writes what there is to know of a result to the file that the user wants it in.
func (o *buildOptions) writeMetadata(m map[string]any) error {
	if o.metadataFile == "" {
		return nil
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err == nil {
		err = writeFile(o.metadataFile, 0o644, bytes.NewReader(text))
	}
	if err != nil {
		return fmt.Errorf("writing metadata: %w", err)
	}
	return nil
}

// imageID is what the image that was built is known by: its ID, or the digest of the index of several; "" if there is
// neither, as for files of several platforms.
func imageID(res *boxbuildv1.BuildResult) string {
	m := res.GetMetadata()
	for _, id := range []string{m["containerimage.config.digest"], m["containerimage.digest"]} {
		if id != "" {
			return id
		}
	}
	if len(res.GetImages()) == 1 {
		return res.GetImages()[0].GetId()
	}
	return ""
}

// metadata decodes values that are JSON in base64, as buildx does.
func metadata(in map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range in {
		out[k] = v
		raw, err := base64.StdEncoding.DecodeString(v)
		if err != nil || len(raw) == 0 || raw[0] != '{' && raw[0] != '[' {
			continue
		}
		if json.Valid(raw) {
			out[k] = json.RawMessage(raw)
		}
	}
	return out
}

// warnings are those of a build.
type warnings []*boxbuildv1.Warning

func (w *warnings) add(warning *boxbuildv1.Warning) {
	if warning != nil {
		*w = append(*w, warning)
	}
}

// print sums the warnings up as buildx does, each in full if debug.
func (w warnings) print(to io.Writer, mode string, debug bool) {
	if len(w) == 0 || mode == "quiet" || mode == "none" || mode == "rawjson" {
		return
	}
	hint := " (use boxbuild --debug to expand)"
	if debug {
		hint = ""
	}
	fmt.Fprintf(to, "\n %s found%s:\n", plural(len(w), "warning"), hint)
	for _, warning := range w {
		line := ""
		if r := warning.GetRanges(); len(r) > 0 {
			line = fmt.Sprintf(" (line %d)", r[0].GetStart())
		}
		if strings.HasSuffix(warning.GetShort(), line) {
			line = "" // the checks' own texts have it
		}
		fmt.Fprintf(to, " - %s%s\n", warning.GetShort(), line)
		if !debug {
			continue
		}
		for _, d := range warning.GetDetail() {
			fmt.Fprintf(to, "%s\n", d)
		}
		if warning.GetUrl() != "" {
			fmt.Fprintf(to, "More info: %s\n", warning.GetUrl())
		}
		fmt.Fprint(to, warning.GetQuote())
		fmt.Fprintln(to)
	}
}
