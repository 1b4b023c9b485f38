package dockerfile

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/boxbuild/boxbuild/solver/op"
)

// TestParseOwner checks that names stay names, since only the files of the image know them, and that a missing group is
// the user's own.
func TestParseOwner(t *testing.T) {
	for in, want := range map[string]*op.Owner{
		"":             nil,
		"1000":         {UID: 1000, GID: 1000},
		"1000:5":       {UID: 1000, GID: 5},
		"app":          {User: "app", GID: op.PrimaryGroup},
		"app:grp":      {User: "app", Group: "grp"},
		"app:7":        {User: "app", GID: 7},
		"7:grp":        {UID: 7, GID: 0, Group: "grp"},
		"root":         {},
		"app:root":     {User: "app"},
		"7:x:y":        {UID: 7, Group: "x:y"},
		"5:99999999":   {UID: 5, GID: 99999999},
		"5:4294967295": {UID: 5, Group: "4294967295"},
		"99999999999":  {User: "99999999999", GID: op.PrimaryGroup},
		"-1":           {},
		"-0":           {},
		"3:-1":         {UID: 3},
		"-1:3":         {GID: 3},
		"-1:grp":       {Group: "grp"},
		"app:-1":       {User: "app"},
		"-5:-6":        {UID: 4294967291, GID: 4294967290},
		"-2147483648":  {UID: 2147483648, GID: 2147483648},
		"-2147483649":  {User: "-2147483649", GID: op.PrimaryGroup},
	} {
		if diff := cmp.Diff(want, parseOwner(in)); diff != "" {
			t.Errorf("%q: -want +got:\n%s", in, diff)
		}
	}
}

// TestParseMode checks octal and symbolic modes, and that what is neither is refused.
func TestParseMode(t *testing.T) {
	for in, want := range map[string]op.Copy{
		"":             {},
		"0":            {ModeSet: true},
		"644":          {Mode: 0o644, ModeSet: true},
		"07777":        {Mode: 0o7777, ModeSet: true},
		"u=rwX,go=rX":  {ModeString: "u=rwX,go=rX"},
		"+x":           {ModeString: "+x"},
		"g=u":          {ModeString: "g=u"},
		"a-w+X":        {ModeString: "a-w+X"},
		"=":            {ModeString: "="},
		"u=gx":         {ModeString: "u=gx"},
		"ug+s,o=t,u-x": {ModeString: "ug+s,o=t,u-x"},
	} {
		var got op.Copy
		if err := parseMode(in, &got); err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: -want +got:\n%s", in, diff)
		}
	}
	for _, in := range []string{"8", "10000", "-1", "u", "rwx", "u=q", "u+x,", ",", "+x ", "0x1"} {
		if err := parseMode(in, &op.Copy{}); err == nil {
			t.Errorf("%q is accepted", in)
		}
	}
}
