package dockerfile

import (
	"fmt"
	"strconv"
	"strings"

	mode "github.com/tonistiigi/dchapes-mode"

	"github.com/boxbuild/boxbuild/solver/op"
)

// parseOwner parses "user[:group]", by name or number. Names are looked up when the step runs, in the files of the
// stage. A number without a group is the group's number as well; a name brings its own group. It returns nil for "".
// A negative number is what chown(2) makes of it, as with BuildKit: of -1 nothing, so that a file is root's as any that COPY
// makes, and of any other the number that has the same 32 bits.
func parseOwner(s string) *op.Owner {
	if s == "" {
		return nil
	}
	user, group, hasGroup := strings.Cut(s, ":")
	o := &op.Owner{}
	id, err := parseID(user)
	if err == nil {
		o.UID, o.GID = id, id
	} else {
		o.User, o.GID = user, op.PrimaryGroup
	}
	if hasGroup {
		if id, err = parseID(group); err == nil {
			o.GID = id
		} else {
			o.Group, o.GID = group, 0
		}
	}
	return o
}

func parseID(s string) (int, error) {
	if s == "root" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return op.OwnerID(uint32(n)), err
}

// parseMode parses the value of --chmod, octal or symbolic, into c.
func parseMode(s string, c *op.Copy) error {
	if s == "" {
		return nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err == nil && n <= 0o7777 {
		c.Mode, c.ModeSet = uint32(n), true
		return nil
	}
	if err != nil {
		if _, err := mode.ParseWithUmask(s, 0); err == nil {
			c.ModeString = s
			return nil
		}
	}
	return fmt.Errorf("invalid chmod parameter: '%v'. it should be octal string and between 0 and 07777", s)
}
