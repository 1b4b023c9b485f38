package fileop

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// A modeChange is a symbolic mode as chmod(1) takes it, such as "u=rwX,go=rX" or "+x", applied as with a umask of 0.
type modeChange []modeStep

type modeStep struct {
	who  uint32 // mask of the permission bits of the classes
	op   byte   // '+', '-' or '='
	perm string // letters of rwxXst
	from byte   // 'u', 'g' or 'o': that class's permissions instead; 0 if none
}

// Permission bits of each class, with the special bit that belongs to it.
const (
	userBits  = 0o700 | unix.S_ISUID
	groupBits = 0o070 | unix.S_ISGID
	otherBits = 0o007 | unix.S_ISVTX
	allBits   = userBits | groupBits | otherBits
)

func parseMode(s string) (modeChange, error) {
	var out modeChange
	for clause := range strings.SplitSeq(s, ",") {
		var who uint32
		i := 0
	classes:
		for ; i < len(clause); i++ {
			switch clause[i] {
			case 'u':
				who |= userBits
			case 'g':
				who |= groupBits
			case 'o':
				who |= otherBits
			case 'a':
				who |= allBits
			default:
				break classes
			}
		}
		if who == 0 {
			who = allBits
		}
		if i == len(clause) {
			return nil, fmt.Errorf("parsing mode %q: an operator is missing", s)
		}
		for i < len(clause) {
			st := modeStep{who: who, op: clause[i]}
			if strings.IndexByte("+-=", st.op) < 0 {
				return nil, fmt.Errorf("parsing mode %q: unexpected %q", s, clause[i])
			}
			i++
			if i < len(clause) && strings.IndexByte("ugo", clause[i]) >= 0 {
				st.from = clause[i]
				i++
			} else {
				from := i
				for i < len(clause) && strings.IndexByte("rwxXst", clause[i]) >= 0 {
					i++
				}
				st.perm = clause[from:i]
			}
			out = append(out, st)
		}
	}
	return out, nil
}

// apply returns the mode, type and permission bits, that a file of the given mode gets.
func (c modeChange) apply(mode uint32) uint32 {
	for _, s := range c {
		bits := s.bits(mode) & s.who
		switch s.op {
		case '+':
			mode |= bits
		case '-':
			mode &^= bits
		case '=':
			clear := s.who
			if mode&unix.S_IFMT == unix.S_IFDIR && !strings.ContainsRune(s.perm, 's') {
				// As in chmod(1), a directory's set-user-ID and set-group-ID bits are kept unless they are named.
				clear &^= unix.S_ISUID | unix.S_ISGID
			}
			mode = mode&^clear | bits
		}
	}
	return mode
}

func (s *modeStep) bits(mode uint32) uint32 {
	if s.from != 0 {
		p := mode & 0o7
		switch s.from {
		case 'u':
			p = mode >> 6 & 0o7
		case 'g':
			p = mode >> 3 & 0o7
		}
		return p * 0o111
	}
	var b uint32
	for i := range len(s.perm) {
		switch s.perm[i] {
		case 'r':
			b |= 0o444
		case 'w':
			b |= 0o222
		case 'x':
			b |= 0o111
		case 'X':
			if mode&unix.S_IFMT == unix.S_IFDIR || mode&0o111 != 0 {
				b |= 0o111
			}
		case 's':
			b |= unix.S_ISUID | unix.S_ISGID
		case 't':
			b |= unix.S_ISVTX
		}
	}
	return b
}
