package filesync

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

var modeBits = []struct {
	goMode fs.FileMode
	mode   uint32
}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}}

// StMode returns the st_mode for one of Go's, which fsutil sends; with no type for what has none that we know.
func StMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for _, b := range modeBits {
		if m&b.goMode != 0 {
			out |= b.mode
		}
	}
	switch m.Type() { //nolint:exhaustive // others are bits of a mode, and no types
	case 0:
		return out | unix.S_IFREG
	case fs.ModeDir:
		return out | unix.S_IFDIR
	case fs.ModeSymlink:
		return out | unix.S_IFLNK
	case fs.ModeNamedPipe:
		return out | unix.S_IFIFO
	case fs.ModeSocket:
		return out | unix.S_IFSOCK
	case fs.ModeDevice:
		return out | unix.S_IFBLK
	case fs.ModeDevice | fs.ModeCharDevice:
		return out | unix.S_IFCHR
	}
	return out
}

// FileMode is the reverse of StMode.
func FileMode(mode uint32) fs.FileMode {
	out := fs.FileMode(mode & 0o777)
	for _, b := range modeBits {
		if mode&b.mode != 0 {
			out |= b.goMode
		}
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		out |= fs.ModeDir
	case unix.S_IFLNK:
		out |= fs.ModeSymlink
	case unix.S_IFIFO:
		out |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		out |= fs.ModeSocket
	case unix.S_IFBLK:
		out |= fs.ModeDevice
	case unix.S_IFCHR:
		out |= fs.ModeDevice | fs.ModeCharDevice
	}
	return out
}
