package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot/blob"
)

// Options are those of Apply.
type Options struct {
	// DiffID is what the digest of the uncompressed tar must be; empty if it is not known. SHA-256 or SHA-512.
	DiffID digest.Digest
	Limits Limits
	// Archive says that the tar is not a layer but an archive of a user's, as ADD unpacks it: no name means a whiteout,
	// an entry for the root changes nothing, and ".." in a name, or in that of a hard link's file, ends at the root.
	Archive bool
	// Windows says that the layer is one of an image for Windows: what is below "Files" is applied, and nothing else. A tar
	// that has entries, but none of those that each such layer has, gives ErrNotWindows.
	Windows bool
	// Owner, if set, owns everything instead of whom the tar says.
	Owner *Owner
	// Progress, if set, is called with the number of bytes read from the compressed stream so far, from one goroutine.
	Progress func(read int64)
}

// An Owner is a user and a group, by number.
type Owner struct{ UID, GID int }

// A Result describes what Apply has applied.
type Result struct {
	DiffID      digest.Digest
	Size        int64 // of the uncompressed tar, in bytes
	Compressed  int64 // bytes read
	Compression Compression
	Entries     int64
	Files       int64 // sum of the files' sizes, in bytes
	// Unsayable is the name of the first entry of an Archive which, in a layer, would be a whiteout; empty if there is none.
	Unsayable string
}

// Apply writes the layer tar in r, compressed or not, to t, a directory that nobody else uses: a fresh upper directory,
// or, for Plain, a copy of the parent's tree. What whiteouts name is removed there or written down, as t.Form says.
//
// The later of two entries of a name wins. An inode that the layer has not made is never written to, so that files of a
// plain tree may share inodes with the parent's. Owners, modes, times and xattrs are those of the tar; users' names are
// ignored. A directory that lies on the way to an entry and has no own keeps what it is in the parent. Sockets cannot be in
// a tar. Device nodes need privilege, and are left out where the kernel refuses them.
//
// r must fail when ctx is done, if it can block. After an error the directory holds a part of the layer, and is to be
// thrown away. An entry that is refused gives an *EntryError; ErrDiffID, ErrTooLarge and ErrUnsafe tell the reasons apart.
func Apply(ctx context.Context, t Target, r io.Reader, opt Options) (Result, error) {
	alg := digest.SHA256
	if opt.DiffID != "" {
		if err := blob.Validate(opt.DiffID); err != nil {
			return Result{}, err
		}
		alg = opt.DiffID.Algorithm()
	}
	limits := opt.Limits.withDefaults()
	in := &counter{ctx: ctx, r: r, progress: opt.Progress}
	dec, compression, err := Decompress(in)
	if err != nil {
		return Result{}, fmt.Errorf("unpacking layer: %w", err)
	}
	defer dec.Close()
	tree, err := newTree(t)
	if err != nil {
		return Result{}, fmt.Errorf("unpacking layer: %w", err)
	}
	defer tree.close()
	tree.room = limits.Entries
	h := alg.Hash()
	src := newSource(in, dec, h, limits)
	defer src.Close()
	a := &applier{
		ctx: ctx, tree: tree, src: src, limits: limits, buf: make([]byte, 256<<10),
		archive: opt.Archive, owner: opt.Owner, windows: opt.Windows,
	}
	if err := a.run(); err != nil {
		return Result{}, err
	}
	if a.windows && a.entries > 0 && !a.isWindows {
		return Result{}, fmt.Errorf("unpacking layer: %w", ErrNotWindows)
	}
	if _, err := io.Copy(io.Discard, src); err != nil { // what follows the end of the tar counts for the digest
		dec.Close() // so that nobody else reads in any more
		if !opt.Archive || !padding(in, err) {
			return Result{}, fmt.Errorf("unpacking layer: %w", err)
		}
		if _, err := io.Copy(io.Discard, in); err != nil { // to its end, where it may be verified
			return Result{}, fmt.Errorf("unpacking layer: %w", err)
		}
	}
	res := Result{
		DiffID: digest.NewDigest(alg, h), Size: src.total, Compressed: in.n.Load(),
		Compression: compression, Entries: a.entries, Files: a.bytes, Unsayable: a.unsayable,
	}
	if opt.DiffID != "" && opt.DiffID != res.DiffID {
		return Result{}, fmt.Errorf("unpacking layer: %w: got %s instead of %s", ErrDiffID, res.DiffID, opt.DiffID)
	}
	return res, nil
}

// An applier applies one tar.
type applier struct {
	ctx     context.Context //nolint:containedctx // it ends with the call that made it
	tree    *tree
	src     *source
	limits  Limits
	entries int64
	bytes   int64 // sum of the files' sizes
	buf     []byte
	archive bool
	windows bool
	owner   *Owner
	// isWindows says that there was an entry which shows that the layer is one for Windows.
	isWindows bool
	// unsayable is Result.Unsayable.
	unsayable string
}

func (a *applier) run() error {
	tr := tar.NewReader(a.src)
	last := "" // the name of the entry before
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			if last == "" {
				return fmt.Errorf("unpacking layer: reading its first entry: %w", err)
			}
			return fmt.Errorf("unpacking layer: reading the entry after %.300q: %w", last, err)
		}
		if a.ctx.Err() != nil {
			return context.Cause(a.ctx)
		}
		if err := a.count(hdr); err != nil {
			return &EntryError{Name: hdr.Name, Err: err}
		}
		last = hdr.Name
		if a.windows && !a.windowsEntry(hdr) {
			continue
		}
		if err := a.entry(hdr, tr); err != nil {
			return &EntryError{Name: last, Err: err}
		}
	}
	if err := a.tree.finish(); err != nil {
		return fmt.Errorf("unpacking layer: %w", err)
	}
	return nil
}

// maxRecords is how many PAX records an entry may have; an inode's xattrs alone are limited to 64 KiB by the kernel.
const maxRecords = 4096

// maxDepth is how deep an entry may lie. The kernel has no limit; other implementations stop at PATH_MAX, half of this.
const maxDepth = 4096

func (a *applier) count(hdr *tar.Header) error {
	if a.entries++; a.entries > a.limits.Entries {
		return fmt.Errorf("%w: more than %d entries", ErrTooLarge, a.limits.Entries)
	}
	if len(hdr.PAXRecords) > maxRecords {
		return fmt.Errorf("%w: %d PAX records", ErrTooLarge, len(hdr.PAXRecords))
	}
	if hdr.Size < 0 || hdr.Size > a.limits.Size-a.bytes {
		return fmt.Errorf("%w: files of more than %d bytes", ErrTooLarge, a.limits.Size)
	}
	a.bytes += hdr.Size
	return nil
}

// entry applies one entry.
func (a *applier) entry(hdr *tar.Header, content io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parts, err := split(hdr.Name, a.archive)
	if err != nil {
		return err
	}
	if len(parts) > maxDepth {
		return fmt.Errorf("%w: %d directories deep", ErrTooLarge, len(parts))
	}
	if a.owner != nil {
		hdr.Uid, hdr.Gid = a.owner.UID, a.owner.GID
	}
	if len(parts) == 0 {
		if a.archive && hdr.Typeflag == tar.TypeDir {
			return nil
		}
		return a.rootEntry(hdr)
	}
	a.tree.stamp = timespec(hdr)
	base := parts[len(parts)-1]
	if strings.HasPrefix(base, whiteoutPrefix) {
		if !a.archive {
			return a.whiteout(parts[:len(parts)-1], base)
		}
		if a.unsayable == "" {
			a.unsayable = strings.Join(parts, "/")
		}
	}
	if hdr.Typeflag == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0 {
		// overlayfs, and so everybody who unpacks onto it, takes that for a whiteout.
		if a.archive {
			return errors.New("a character device 0:0 cannot be stored: it would hide a file")
		}
		return a.hide(parts[:len(parts)-1], base)
	}
	if err := checkOwner(hdr); err != nil {
		return err
	}
	parent, err := a.parent(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeDir {
		return a.directory(parent, base, hdr)
	}
	parent.touch()
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse: //nolint:staticcheck // old tars have TypeRegA
		return a.regular(parent, base, hdr, content)
	case tar.TypeLink:
		return a.hardlink(parent, base, hdr)
	case tar.TypeSymlink:
		return a.symlink(parent, base, hdr)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return a.special(parent, base, hdr)
	case typeSocket:
		if a.src != nil {
			break // in a tar it means nothing
		}
		return a.special(parent, base, hdr)
	}
	return fmt.Errorf("entry of unknown type %q", hdr.Typeflag)
}

// parent returns the directory that parts lead to, made if need be and existing in the tree that is written.
func (a *applier) parent(parts []string) (*node, error) {
	n, err := a.tree.walk(parts, true)
	if err != nil {
		return nil, err
	}
	return n, a.tree.materialise(n)
}

// rootEntry applies what a tar says of the root itself: a directory's metadata. Nothing replaces the root.
func (a *applier) rootEntry(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: it would replace the root", ErrUnsafe)
	}
	if err := checkOwner(hdr); err != nil {
		return err
	}
	return a.describe(a.tree.root, hdr)
}

// whiteout applies an entry whose name says that another is absent.
func (a *applier) whiteout(dir []string, base string) error {
	switch {
	case base == whiteoutOpaque:
		n, err := a.parent(dir)
		if err != nil {
			return err
		}
		n.touch()
		if a.tree.form == Plain {
			return a.clear(n)
		}
		return a.tree.hideLower(n)
	case strings.HasPrefix(base, whiteoutMeta):
		return nil
	}
	name := base[len(whiteoutPrefix):]
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("%w: whiteout of %q", ErrUnsafe, name)
	}
	return a.hide(dir, name)
}

// hide makes name absent from the directory, as far as the parent's layers have it: layer.md says that a whiteout does
// not hide what its own layer holds, whichever comes first.
func (a *applier) hide(dir []string, name string) error {
	t := a.tree
	n, err := t.walk(dir, false)
	if err != nil || n == nil {
		return err // nothing to hide in a directory that does not exist
	}
	f, err := t.lookup(n, name)
	if err != nil || f.kind == absent {
		return err
	}
	if t.form == Plain {
		return a.hidePlain(n, name, f)
	}
	n.touch()
	switch {
	case f.kind == directory && f.node.there:
		return t.hideLower(f.node)
	case f.kind != directory && f.layer < 0:
		return nil // this layer's own
	case f.kind == directory:
		t.drop(f.node)
	}
	if err := t.materialise(n); err != nil {
		return err
	}
	fd, err := t.dirFD(n)
	if err != nil {
		return err
	}
	if err := unix.Mknodat(fd, name, unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("making whiteout: %w", err)
	}
	n.whited = true
	return nil
}

// hidePlain is hide where whiteouts are performed.
func (a *applier) hidePlain(n *node, name string, f found) error {
	t := a.tree
	if t.fresh || n.made[name] {
		return nil
	}
	if f.kind == directory {
		if f.node.touched {
			return a.clear(f.node)
		}
		t.drop(f.node)
	}
	n.touch()
	fd, err := t.dirFD(n)
	if err != nil {
		return err
	}
	return removeAll(fd, name)
}

// clear removes what this layer has not put into n.
func (a *applier) clear(n *node) error {
	t := a.tree
	if t.fresh {
		return nil
	}
	fd, err := t.dirFD(n)
	if err != nil {
		return err
	}
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("reading directory: %w", err)
	}
	n.pin++
	defer func() { n.pin-- }()
	for _, name := range names {
		k := n.kids[name]
		switch {
		case n.made[name]:
			continue
		case k != nil && k.touched:
			if err := a.clear(k); err != nil {
				return err
			}
			continue
		case k != nil:
			t.drop(k)
		}
		if err := removeAll(fd, name); err != nil {
			return err
		}
	}
	return nil
}

func checkOwner(hdr *tar.Header) error {
	// The greatest number means "do not change" to chown(2), which would leave the file to us.
	const last = 1<<32 - 2
	if hdr.Uid < 0 || hdr.Uid > last || hdr.Gid < 0 || hdr.Gid > last {
		return fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	return nil
}

func timespec(hdr *tar.Header) unix.Timespec {
	if hdr.ModTime.IsZero() {
		return unix.Timespec{}
	}
	return unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
}
