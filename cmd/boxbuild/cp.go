package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/cmd/internal/terminal"
)

// cpOptions are the flags of cp.
type cpOptions struct{ follow, archive, quiet bool }

func (a *app) cpCommand() *cobra.Command {
	var opt cpOptions
	cmd := &cobra.Command{
		Use: `cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-
	boxbuild cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH`,
		Short: "Copy files/folders between a container and the local filesystem",
		Long: `Copy files/folders between a container and the local filesystem

Use '-' as the source to read a tar archive from stdin
and extract it to a directory destination in a container.
Use '-' as the destination to stream a tar archive of a
container source to stdout.`,
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("quiet") {
				opt.quiet = !terminal.Is(a.stdout)
			}
			return a.cp(cmd.Context(), &opt, args[0], args[1])
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.follow, "follow-link", "L", false, "Always follow symlinks in SRC_PATH")
	f.BoolVarP(&opt.archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	f.BoolVarP(&opt.quiet, "quiet", "q", false,
		"Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
	return cmd
}

func (a *app) cp(ctx context.Context, opt *cpOptions, from, to string) error {
	source, sourcePath := splitPlace(from)
	dest, destPath := splitPlace(to)
	switch {
	case from == "":
		return errors.New("source can not be empty")
	case to == "":
		return errors.New("destination can not be empty")
	case source != "" && dest != "":
		return errors.New("copying between containers is not supported")
	case source == "" && dest == "":
		return errors.New("must specify at least one container source")
	}
	if _, err := a.engine(ctx); err != nil {
		return err
	}
	if source != "" {
		return a.copyFrom(ctx, opt, source, sourcePath, destPath)
	}
	return a.copyTo(ctx, opt, dest, sourcePath, destPath)
}

// splitPlace splits a place into container and path. What begins like a path is one, even with a colon in it.
func splitPlace(s string) (name, path string) {
	name, path, ok := strings.Cut(s, ":")
	if !ok || strings.HasPrefix(s, "/") || strings.HasPrefix(s, ".") {
		return "", s
	}
	return name, path
}

// A place is a path as cp sees it.
type place struct {
	path     string
	exists   bool
	dir      bool
	content  bool // it ends in ".": what is in it is meant, and not itself
	trailing bool // it ends in "/": a directory is meant
}

func newPlace(p string) place {
	return place{path: p, content: path.Base(p) == ".", trailing: strings.HasSuffix(p, "/")}
}

// target says where a source goes: the directory to unpack in, and the name that takes the place of the source's own.
func (dest place) target(source place) (dir, name string, err error) {
	switch {
	case dest.exists && dest.dir && source.content:
		return dest.path, ".", nil
	case dest.exists && dest.dir:
		return dest.path, path.Base(source.path), nil
	case dest.exists && source.dir:
		return "", "", errors.New("cannot copy directory")
	case dest.exists && dest.trailing:
		return "", "", errors.New("not a directory")
	case !dest.exists && !source.dir && dest.trailing:
		return "", "", errors.New("no such directory")
	}
	clean := path.Clean(dest.path)
	return path.Dir(clean), path.Base(clean), nil
}

// copyFrom copies from a container to a local path, or as a tar to standard output.
func (a *app) copyFrom(ctx context.Context, opt *cpOptions, name, from, to string) error {
	source := newPlace(from)
	if opt.follow {
		if target := a.linkTarget(ctx, name, from); target != "" {
			from = target
		}
	}
	dest := newPlace(to)
	if to != "-" {
		if st, err := os.Stat(to); err == nil {
			dest.exists, dest.dir = true, st.IsDir()
			if !st.IsDir() && !st.Mode().IsRegular() {
				return fmt.Errorf("invalid output path: %q must be a directory or a regular file", to)
			}
		} else if st, err := os.Stat(filepath.Dir(filepath.Clean(to))); err != nil || !st.IsDir() {
			return fmt.Errorf("invalid output path: directory %q does not exist", filepath.Dir(filepath.Clean(to)))
		}
	}
	r, err := a.api.CopyFromContainer(ctx, name, client.CopyFromContainerOptions{SourcePath: from})
	if err != nil {
		return err
	}
	defer r.Content.Close()
	if to == "-" {
		_, err := io.Copy(a.stdout, r.Content)
		return err
	}
	source.dir = r.Stat.Mode.IsDir()
	dir, top, err := dest.target(source)
	if err != nil {
		return err
	}
	count := a.counting(opt, "Copying from container - ")
	u := &unpacker{keepOwners: opt.archive && os.Geteuid() == 0, whole: true, top: top}
	err = u.unpack(dir, count.reader(r.Content))
	size := count.n
	if !source.dir {
		size = r.Stat.Size
	}
	count.done(size, to)
	return err
}

// copyTo copies a local path, or a tar on standard input, to a container.
func (a *app) copyTo(ctx context.Context, opt *cpOptions, name, from, to string) error {
	dest := newPlace(to)
	if err := a.statDestination(ctx, name, &dest); err != nil {
		return err
	}
	if from == "-" {
		if !dest.dir {
			return fmt.Errorf(`destination "%s:%s" must be a directory`, name, to)
		}
		_, err := a.api.CopyToContainer(ctx, name, client.CopyToContainerOptions{
			DestinationPath: dest.path, Content: a.stdin, CopyUIDGID: opt.archive,
		})
		return err
	}
	source := newPlace(from)
	stat := os.Lstat
	follow := opt.follow || source.content || source.trailing
	if follow {
		stat = os.Stat
	}
	st, err := stat(from)
	if err != nil {
		return err
	}
	source.dir = st.IsDir()
	if source.path, err = filepath.Abs(from); err != nil { // "." has no name of its own
		return err
	}
	dir, top, err := dest.target(source)
	if err != nil {
		return err
	}
	pr, pw := io.Pipe()
	packed := make(chan int64, 1)
	go func() {
		n, err := pack(pw, from, top, follow)
		packed <- n
		_ = pw.CloseWithError(err) // nil is the end
	}()
	count := a.counting(opt, "Copying to container - ")
	_, err = a.api.CopyToContainer(ctx, name, client.CopyToContainerOptions{
		DestinationPath: dir, Content: count.reader(pr), CopyUIDGID: opt.archive,
	})
	_ = pr.Close() // the daemon may not have read all
	count.done(<-packed, name+":"+dest.path)
	return err
}

// statDestination looks at a path in a container, and at what it points to.
func (a *app) statDestination(ctx context.Context, name string, dest *place) error {
	st, err := a.api.ContainerStatPath(ctx, name, client.ContainerStatPathOptions{Path: dest.path})
	if err == nil && st.Stat.Mode&os.ModeSymlink != 0 {
		dest.path = follow(dest.path, st.Stat)
		st, err = a.api.ContainerStatPath(ctx, name, client.ContainerStatPathOptions{Path: dest.path})
	}
	if err != nil {
		return nil // it is not there; or else copying says what is wrong
	}
	if m := st.Stat.Mode; !m.IsDir() && !m.IsRegular() {
		return fmt.Errorf(`destination "%s:%s" must be a directory or a regular file`, name, dest.path)
	}
	dest.exists, dest.dir = true, st.Stat.Mode.IsDir()
	return nil
}

// linkTarget is what a path in a container points to, "" if it is no symlink.
func (a *app) linkTarget(ctx context.Context, name, p string) string {
	st, err := a.api.ContainerStatPath(ctx, name, client.ContainerStatPathOptions{Path: p})
	if err != nil || st.Stat.Mode&os.ModeSymlink == 0 {
		return ""
	}
	return follow(p, st.Stat)
}

func follow(p string, st container.PathStat) string {
	if path.IsAbs(st.LinkTarget) {
		return st.LinkTarget
	}
	return path.Join(path.Dir(path.Clean(p)), st.LinkTarget)
}

// A counter counts what is copied and shows it on a terminal.
type counter struct {
	out    io.Writer // nil to say nothing
	header string
	live   bool
	n      int64
	shown  string
	from   io.Reader
}

func (a *app) counting(opt *cpOptions, header string) *counter {
	c := &counter{header: header}
	if !opt.quiet {
		c.out, c.live = a.stderr, terminal.Is(a.stderr)
	}
	return c
}

func (c *counter) reader(r io.Reader) io.Reader {
	c.from = r
	return c
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += int64(n)
	if c.live {
		if text := size(c.n); text != c.shown {
			c.shown = text
			fmt.Fprintf(c.out, "\r\x1b[K%s%s", c.header, text)
		}
	}
	return n, err
}

// done says what has been copied.
func (c *counter) done(content int64, where string) {
	if c.out == nil {
		return
	}
	if c.live {
		fmt.Fprint(c.out, "\r\x1b[K")
	}
	moved := ""
	if content != c.n {
		moved = " (transferred " + size(c.n) + ")"
	}
	fmt.Fprintf(c.out, "Successfully copied %s%s to %s\n", size(content), moved, where)
}

func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
