package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
)

// An Identity is who a process is.
type Identity struct {
	UID, GID uint32
	Groups   []uint32 // supplementary, sorted; GID is among them
	Home     string
}

// Users are the contents of /etc/passwd and /etc/group. A missing file is empty.
type Users struct {
	Passwd, Group []byte
}

const (
	// maxID is the largest user or group id: 2^32-1 means "no change" to the kernel, and more than 2^31-1 Docker
	// refuses, as several programs take such ids for negative ones.
	maxID = 1<<31 - 1
	// maxGroups is the kernel's NGROUPS_MAX.
	maxGroups = 65536
)

// A noEntryError is a name that /etc/passwd or /etc/group does not have. It says so as runc does.
type noEntryError struct{ kind, name, file string }

func (e *noEntryError) Error() string {
	return fmt.Sprintf("unable to find %s %s: no matching entries in %s file", e.kind, e.name, e.file)
}

// Resolve returns the identity of a process with p.User and p.AddGroups, by the rules of USER in a Dockerfile:
//
//   - A user may be a name or a number; a number need not be in passwd, and then has group 0 and home /.
//   - A number is decimal and at most 2^31-1. What looks like a number but is out of range is an error, never a name
//     and never user 0 (CVE-2024-40635, CVE-2016-3697).
//   - Without a group, the primary group is the one in passwd, and the supplementary groups are those that list the
//     user in group. With one, there are none of these. The primary group is always among the supplementary ones.
//   - An empty user, as in ":777", is user 0; an empty group, as in "1234:", counts as none; what follows a second
//     colon is ignored.
//   - A name that has no entry is an error.
func (u Users) Resolve(p *executor.Process) (Identity, error) {
	userPart, rest, _ := strings.Cut(p.User, ":")
	groupPart, _, _ := strings.Cut(rest, ":")
	id, name, err := u.user(userPart)
	var none *noEntryError
	if errors.As(err, &none) {
		return Identity{}, err
	}
	if err != nil {
		return Identity{}, fmt.Errorf("user %q: %w", p.User, err)
	}
	if groupPart != "" {
		if id.GID, err = u.group(groupPart); errors.As(err, &none) {
			return Identity{}, err
		} else if err != nil {
			return Identity{}, fmt.Errorf("user %q: group %q: %w", p.User, groupPart, err)
		}
	} else if name != "" {
		if id.Groups, err = u.groupsOf(name); err != nil {
			return Identity{}, fmt.Errorf("user %q: %w", p.User, err)
		}
	}
	for _, g := range p.AddGroups {
		gid, err := u.group(g)
		if err != nil {
			return Identity{}, fmt.Errorf("group %q: %w", g, err)
		}
		id.Groups = append(id.Groups, gid)
	}
	// The primary group is among them, so that a program which changes its group does not lose what a file denies to
	// the group (CVE-2022-36109).
	id.Groups = append(id.Groups, id.GID)
	slices.Sort(id.Groups)
	id.Groups = slices.Compact(id.Groups)
	if len(id.Groups) > maxGroups {
		return Identity{}, fmt.Errorf("user %q: member of %d groups, more than the kernel's %d", p.User, len(id.Groups), maxGroups)
	}
	return id, nil
}

// user resolves the user part, and returns the name under which group files list it, if there is an entry for it.
func (u Users) user(s string) (Identity, string, error) {
	number, isNumber, err := parseID(s)
	if err != nil {
		return Identity{}, "", err
	}
	if s == "" {
		isNumber = true // as if it were 0
	}
	found := Identity{UID: number, Home: "/"}
	name := ""
	err = eachLine(u.Passwd, func(f []string) (bool, error) {
		// name:password:uid:gid:comment:home:shell
		if len(f) < 4 {
			return false, nil
		}
		uid, ok, err := parseID(f[2])
		if err != nil || !ok {
			return false, nil // an entry that nobody can be
		}
		// A number is only ever matched with the uid, so that an entry named "0" or "4294967296" can't be reached.
		if isNumber && uid != number || !isNumber && f[0] != s {
			return false, nil
		}
		gid, ok, err := parseID(f[3])
		if err != nil || !ok {
			return false, fmt.Errorf("the group id %q in its passwd entry is not valid", f[3])
		}
		name, found = f[0], Identity{UID: uid, GID: gid, Home: "/"}
		if len(f) > 5 && f[5] != "" {
			found.Home = f[5]
		}
		return true, nil
	})
	if err != nil {
		return Identity{}, "", err
	}
	if name == "" && !isNumber {
		return Identity{}, "", &noEntryError{"user", s, "passwd"}
	}
	return found, name, nil
}

// group resolves a group's name or number.
func (u Users) group(s string) (uint32, error) {
	number, isNumber, err := parseID(s)
	if err != nil || isNumber {
		return number, err
	}
	found := false
	err = eachLine(u.Group, func(f []string) (bool, error) {
		if len(f) < 3 || f[0] != s {
			return false, nil
		}
		gid, ok, err := parseID(f[2])
		if err != nil || !ok {
			return false, fmt.Errorf("the group id %q in its entry is not valid", f[2])
		}
		number, found = gid, true
		return true, nil
	})
	if err != nil {
		return 0, err
	}
	if !found {
		return 0, &noEntryError{"group", s, "group"}
	}
	return number, nil
}

// groupsOf returns the groups that list the user name.
func (u Users) groupsOf(name string) ([]uint32, error) {
	var out []uint32
	err := eachLine(u.Group, func(f []string) (bool, error) {
		// name:password:gid:member,member
		if len(f) < 4 {
			return false, nil
		}
		gid, ok, err := parseID(f[2])
		if err != nil || !ok {
			return false, nil
		}
		for m := range strings.SplitSeq(f[3], ",") {
			if m == name {
				out = append(out, gid)
				break
			}
		}
		if len(out) > maxGroups {
			return true, fmt.Errorf("more than %d entries of /etc/group list it", maxGroups)
		}
		return false, nil
	})
	return out, err
}

// parseID parses an id. It returns ok false for what is a name, and an error for what looks like a number but is no id:
// with a sign, a base prefix, spaces, or out of range.
func parseID(s string) (id uint32, ok bool, err error) {
	if s == "" {
		return 0, false, nil
	}
	if strings.TrimSpace(s) != s || strings.ContainsAny(s, "\x00\n:") {
		return 0, false, fmt.Errorf("%q is neither a name nor a number", s)
	}
	digits := strings.TrimLeft(s, "0123456789")
	if digits == "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || n > maxID {
			return 0, false, fmt.Errorf("id %s is not between 0 and %d", s, maxID)
		}
		return uint32(n), true, nil
	}
	// "-1", "+5", "0x0", "0b1", "1e3": no user name that useradd(8) makes begins like a number.
	unsigned := strings.TrimLeft(s, "+-")
	if unsigned != s && strings.TrimLeft(unsigned, "0123456789") == "" {
		return 0, false, fmt.Errorf("id %s has a sign", s)
	}
	if _, err := strconv.ParseInt(s, 0, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return 0, false, fmt.Errorf("id %s is not decimal", s)
	}
	return 0, false, nil
}

// maxLine bounds a line of passwd or group, in bytes. A group with 65536 members of 32 bytes fits.
const maxLine = 4 << 20

// eachLine calls f with the fields of every entry until it returns true or an error.
func eachLine(data []byte, f func(fields []string) (bool, error)) error {
	r := bufio.NewReader(bytes.NewReader(data))
	for {
		line, err := r.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) {
			// A long line: collect it.
			long := slices.Clone(line)
			for errors.Is(err, bufio.ErrBufferFull) && len(long) <= maxLine {
				line, err = r.ReadSlice('\n')
				long = append(long, line...)
			}
			if len(long) > maxLine {
				return fmt.Errorf("a line is longer than %d bytes", maxLine)
			}
			line = long
		}
		text := strings.TrimRight(string(line), "\r\n")
		if text != "" && text[0] != '#' {
			done, ferr := f(strings.Split(text, ":"))
			if done || ferr != nil {
				return ferr
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}
