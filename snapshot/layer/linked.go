package layer

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// linkPlan says of each name of a plain tree whose file has several names, there or in the base, whether it is in the layer.
// An unchanged file is in it if what shares its inode has changed: laid over the base, the layer is to make the same links.
type linkPlan map[string]bool

// A linkName is such a name.
type linkName struct {
	path      string
	file, old inode
	same      bool // the base has an equal file of this name, with the inode old
}

// samePlain says whether name, which st describes and which is in the base of p, is not in the layer.
func (d *differ) samePlain(p *place, name string, st *unix.Stat_t) (bool, error) {
	var old unix.Stat_t
	if err := statRetry(p.base, name, &old); err != nil {
		return false, err
	}
	if d.merged || st.Nlink == 1 && (old.Nlink == 1 || old.Mode&unix.S_IFMT == unix.S_IFDIR) {
		return sameFile(p.fd, p.base, name, st, &old, d.views)
	}
	written, err := d.linkWritten(p.path + name)
	return !written, err
}

// linkWritten says whether a name with others is in the layer. The first one makes it walk both trees: the order of entries
// is that of names, and what comes last may bring back what comes first.
func (d *differ) linkWritten(path string) (bool, error) {
	if d.plan == nil {
		var all []linkName
		if err := d.linkNames(d.root.fd, d.root.base, "", &all); err != nil {
			return false, fmt.Errorf("looking for links: %w", err)
		}
		d.plan = planLinks(all)
	}
	return d.plan[path], nil
}

// linkNames appends the names of files with several links in an open directory and below, in the order of the walk.
func (d *differ) linkNames(fd, base int, path string, all *[]linkName) error {
	if d.ctx.Err() != nil {
		return d.ctx.Err()
	}
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := statRetry(fd, name, &st); err != nil {
			return err
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			err = d.linkNamesBelow(fd, base, name, path, all)
		case strings.HasPrefix(name, whiteoutPrefix), isWhiteout(&st), st.Mode&unix.S_IFMT == unix.S_IFSOCK && !d.sockets:
			// in no layer
		default:
			err = d.linkName(fd, base, name, path, &st, all)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", cutPath(path+name), err)
		}
	}
	return nil
}

func (d *differ) linkNamesBelow(fd, base int, name, path string, all *[]linkName) error {
	sub, err := openRetry(fd, name, dirFlags)
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	old := -1
	if base >= 0 {
		old, err = openRetry(base, name, dirFlags)
		switch {
		case err == nil:
			defer unix.Close(old)
		case isGone(err), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			old = -1
		default:
			return err
		}
	}
	return d.linkNames(sub, old, path+name+"/", all)
}

func (d *differ) linkName(fd, base int, name, path string, st *unix.Stat_t, all *[]linkName) error {
	n := linkName{path: path + name, file: inode{st.Dev, st.Ino}}
	var old unix.Stat_t
	err := error(unix.ENOENT)
	if base >= 0 {
		err = statRetry(base, name, &old)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	below := err == nil && old.Mode&unix.S_IFMT != unix.S_IFDIR
	if st.Nlink == 1 && (!below || old.Nlink == 1) {
		return nil
	}
	if below {
		n.old = inode{old.Dev, old.Ino}
		if n.same, err = sameFile(fd, base, name, st, &old, d.views); err != nil {
			return err
		}
	}
	*all = append(*all, n)
	return nil
}

// planLinks decides. All names of a file are in the layer if one of them is new or changed, or if they were not names of one
// file in the base. Of several files that were one there, the first stays as it is and the others are in the layer.
func planLinks(all []linkName) linkPlan {
	type group struct {
		old    inode
		writes bool
	}
	groups := make(map[inode]*group)
	for i := range all {
		n := &all[i]
		g := groups[n.file]
		if g == nil {
			g = &group{old: n.old}
			groups[n.file] = g
		}
		g.writes = g.writes || !n.same || n.old != g.old
	}
	plan := make(linkPlan, len(all))
	kept := make(map[inode]*group)
	for i := range all {
		g := groups[all[i].file]
		if !g.writes {
			if kept[g.old] == nil {
				kept[g.old] = g
			}
			g.writes = kept[g.old] != g
		}
		plan[all[i].path] = g.writes
	}
	return plan
}
