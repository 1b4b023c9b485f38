package fileop

import (
	"fmt"
	"io/fs"

	mode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"
)

// A modeChange is a symbolic mode such as "u=rwX,go=rX" or "+x", applied as with a umask of 0. It means what it means to
// BuildKit, whose library this is: that of BSD's chmod(1), which has other views of special bits than that of GNU.
type modeChange struct{ set mode.Set }

func parseMode(s string) (*modeChange, error) {
	set, err := mode.ParseWithUmask(s, 0)
	if err != nil {
		return nil, fmt.Errorf("parsing mode %q: %w", s, err)
	}
	return &modeChange{set}, nil
}

// specials are the special bits as the kernel and as Go have them.
var specials = [...]struct {
	bit  uint32
	mode fs.FileMode
}{
	{unix.S_ISUID, fs.ModeSetuid},
	{unix.S_ISGID, fs.ModeSetgid},
	{unix.S_ISVTX, fs.ModeSticky},
}

// apply returns the mode, type and permission bits, that a file of the given mode gets.
func (c *modeChange) apply(m uint32) uint32 {
	in := fs.FileMode(m & 0o777)
	if m&unix.S_IFMT == unix.S_IFDIR {
		in |= fs.ModeDir
	}
	for _, s := range specials {
		if m&s.bit != 0 {
			in |= s.mode
		}
	}
	out := c.set.Apply(in)
	m = m&^0o7777 | uint32(out.Perm())
	for _, s := range specials {
		if out&s.mode != 0 {
			m |= s.bit
		}
	}
	return m
}
