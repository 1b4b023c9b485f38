package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// unpack writes the files of a tar into dir. No entry, whatever its name and whatever links the tar or the directory
// have, gets out of dir. Owners are kept by root only; devices, pipes and sockets are left out.
func unpack(dir string, r io.Reader) error {
	return (&unpacker{keepOwners: os.Geteuid() == 0}).unpack(dir, r)
}

func (u *unpacker) unpack(dir string, r io.Reader) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u.root = root
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("unpacking %s: %w", h.Name, err)
		}
	}
	// What follows the end of the tar counts to the stream.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	return u.finish()
}

// An unpacker holds the times and modes of directories back until their contents are there.
type unpacker struct {
	root       *os.Root
	keepOwners bool
	whole      bool   // devices, pipes and extended attributes are made; without it they are left out
	top        string // takes the place of the first part of every name; "" to keep the names
	dirs       []unpackedDir
}

// An unpackedDir is a directory whose mode and time are still to be set.
type unpackedDir struct {
	name string
	h    *tar.Header
}

// name is where an entry goes, relative to the root.
func (u *unpacker) name(entry string) string {
	if u.top == "" {
		return clean(entry)
	}
	rest, rooted := strings.CutPrefix(entry, "/") // the root itself is the first part
	if !rooted {
		_, rest, _ = strings.Cut(entry, "/")
	}
	return clean(u.top + "/" + clean(rest))
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	name := u.name(h.Name)
	if name == "." {
		return nil
	}
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if h.Typeflag != tar.TypeDir {
		// Something else in the way goes; a directory that is not empty does not.
		if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.mkdir(name, h)
	case tar.TypeReg:
		if err := u.file(name, h, body); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return u.own(name, h)
	case tar.TypeLink:
		return u.root.Link(u.name(h.Linkname), name)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		if !u.whole {
			return nil
		}
		if err := u.node(name, h); err != nil {
			return err
		}
	default:
		return nil
	}
	if err := u.own(name, h); err != nil {
		return err
	}
	if err := u.attrs(name, h); err != nil {
		return err
	}
	// Changing the owner clears set-user-ID bits, so the mode comes after it.
	if err := u.root.Chmod(name, h.FileInfo().Mode()); err != nil {
		return err
	}
	return u.root.Chtimes(name, time.Time{}, h.ModTime)
}

func (u *unpacker) mkdir(name string, h *tar.Header) error {
	st, err := u.root.Lstat(name)
	if err == nil && !st.IsDir() {
		if err := u.root.Remove(name); err != nil {
			return err
		}
	}
	if err := u.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	u.dirs = append(u.dirs, unpackedDir{name, h})
	if err := u.own(name, h); err != nil {
		return err
	}
	return u.attrs(name, h)
}

func (u *unpacker) file(name string, h *tar.Header, body io.Reader) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, body, h.Size); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

func (u *unpacker) own(name string, h *tar.Header) error {
	if !u.keepOwners {
		return nil
	}
	return u.root.Lchown(name, h.Uid, h.Gid)
}

// finish sets modes and times of directories, the innermost first.
func (u *unpacker) finish() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		name, h := u.dirs[i].name, u.dirs[i].h
		st, err := u.root.Lstat(name)
		if err != nil || !st.IsDir() {
			continue // a later entry has replaced it
		}
		if err := u.root.Chmod(name, h.FileInfo().Mode()); err != nil {
			return err
		}
		if err := u.root.Chtimes(name, time.Time{}, h.ModTime); err != nil {
			return err
		}
	}
	return nil
}

// clean makes a name of a tar one that is relative to the root.
func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/") + map[bool]string{true: "."}[path.Clean("/"+name) == "/"]
}
