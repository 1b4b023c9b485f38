package fileop

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// maxUserFile bounds how much of a tree's /etc/passwd or /etc/group is read, in bytes.
const maxUserFile = 10 << 20

// owner resolves an owner by the files of the target, or of the trees that the owner says. A user that they do not have is
// user 0, a group that they do not have is the group that the user has without one, as in BuildKit; both are a warning.
// The files are read only if there is a name.
func (t *target) owner(ctx context.Context, o *op.Owner) (*ids, error) {
	if o == nil {
		return nil, nil
	}
	missing := ""
	if t.users == nil {
		missing = o.User
	}
	if t.groups == nil {
		missing = cmp.Or(missing, o.Group)
	}
	if name := missing; t.empty && name != "" {
		return nil, fmt.Errorf("looking up the owner %q: there is no image whose /etc/passwd and /etc/group could have it; give numbers", name)
	}
	id := &ids{uid: o.UID, gid: o.GID}
	if o.User != "" {
		line, err := t.userFile(ctx, t.users, "/etc/passwd", o.User)
		if err != nil {
			return nil, err
		}
		id.uid = 0
		primary := 0
		if line != nil {
			id.uid, primary = line[2], line[3]
		} else {
			t.unknown("user", o.User, "/etc/passwd", "user 0")
		}
		if o.Group != "" || o.GID == op.PrimaryGroup {
			id.gid = primary
		}
	}
	if o.Group != "" {
		line, err := t.userFile(ctx, t.groups, "/etc/group", o.Group)
		if err != nil {
			return nil, err
		}
		if o.User == "" {
			id.gid = id.uid // the group of a number, if no other is found
		}
		if line != nil {
			id.gid = line[2]
		} else {
			t.unknown("group", o.Group, "/etc/group", fmt.Sprintf("the user's own group %d", id.gid))
		}
	}
	if !validID(id.uid) || !validID(id.gid) {
		return nil, fmt.Errorf("changing the owner to %d:%d: out of range", id.uid, id.gid)
	}
	return id, nil
}

// validID excludes what means "do not change" to chown(2).
func validID(n int) bool { return n >= 0 && int64(n) < 1<<32-1 }

// unknown warns of a user or group that is not in its file, and says who has the files instead.
func (t *target) unknown(kind, name, file, instead string) {
	t.warn(solver.Warning{
		Short:  fmt.Sprintf("there is no %s %q in %s of the image; files are given to %s", kind, name, file, instead),
		Detail: []string{"Give a number, or create the " + kind + " before files are copied."},
	})
}

// userFile returns the numbers of the first line of a passwd or group file whose first field is name, by the index of
// their field; nil if there is none. A line that lacks fields, or has no valid number where one has to be, does not
// count. tree has the file; nil for the target.
func (t *target) userFile(ctx context.Context, tree treehash.Tree, p, name string) (line []int, err error) {
	var data []byte
	if tree != nil {
		data, err = readTreeFile(ctx, tree, p, maxUserFile)
	} else {
		data, err = t.readFile(p, maxUserFile)
	}
	fields := 3
	if p == "/etc/passwd" {
		fields = 4
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(data) {
		f := bytes.Split(bytes.TrimSpace(line), []byte{':'})
		if len(f) < fields || string(f[0]) != name {
			continue
		}
		out := make([]int, fields)
		ok := true
		for i := 2; i < fields; i++ {
			n, err := strconv.ParseUint(string(f[i]), 10, 32)
			ok = ok && err == nil && validID(int(n))
			out[i] = int(n)
		}
		if ok {
			return out, nil
		}
	}
	return nil, nil
}

// readTreeFile is readFile for a tree that is not written.
func readTreeFile(ctx context.Context, tree treehash.Tree, p string, max int64) ([]byte, error) {
	e, err := treehash.Resolve(ctx, tree, p, true)
	switch {
	case err != nil:
		return nil, err
	case !e.IsRegular():
		return nil, fmt.Errorf("reading %q: not a regular file", p)
	case e.Size > max:
		return nil, fmt.Errorf("reading %q: more than %d bytes", p, max)
	}
	r, err := tree.Open(ctx, e.Path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, max))
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", p, err)
	}
	return data, nil
}

// readFile reads a file of the target, which must be a regular one of at most max bytes.
func (t *target) readFile(p string, max int64) ([]byte, error) {
	s, err := t.resolve(p)
	if err != nil {
		return nil, err
	}
	if !s.found {
		return nil, fmt.Errorf("reading %q: %w", p, fs.ErrNotExist)
	}
	if s.st.Type() != unix.S_IFREG {
		return nil, fmt.Errorf("reading %q: not a regular file", p)
	}
	if s.st.Size > max {
		return nil, fmt.Errorf("reading %q: more than %d bytes", p, max)
	}
	l, err := t.lookup(s.dir, s.rest[0])
	if err != nil {
		return nil, err
	}
	dir := s.dir.low
	if l.upper {
		dir = s.dir.up
	}
	fd, err := dirfd.Open(dir, s.rest[0], unix.O_RDONLY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", p, bare(err))
	}
	f := os.NewFile(uintptr(fd), path.Base(p))
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max))
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", p, err)
	}
	return data, nil
}
