package executor

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// TestSetOption checks what options make of a mount, that the last of those counts which contradict each other, and which
// there are not.
func TestSetOption(t *testing.T) {
	for _, tt := range []struct {
		kind    MountType
		options string
		want    Mount
	}{
		{Bind, "", Mount{}},
		{Bind, "defaults ro nosuid nodev noexec", Mount{ReadOnly: true, NoSuid: true, NoDev: true, NoExec: true}},
		{Bind, "ro rw nosuid suid noexec exec nodev dev", Mount{}},
		{Bind, "bind rprivate", Mount{NonRecursive: true, Propagation: "rprivate"}},
		{Bind, "bind rbind rslave rshared", Mount{Propagation: "rshared"}},
		{Bind, "rro", Mount{ReadOnly: true}},
		{Bind, "rro rrw", Mount{}},
		{Bind, "noatime rnodev nosymfollow", Mount{Flags: []string{"noatime", "rnodev", "nosymfollow"}}},
		{Tmpfs, "size=1m nr_inodes=7 huge=always mpol=local", Mount{Data: []string{"size=1m", "nr_inodes=7", "huge=always", "mpol=local"}}},
		{Tmpfs, "mode=0750 uid=3 gid=4", Mount{Mode: 0o750, UID: 3, GID: 4}},
		{Tmpfs, "noatime strictatime sync rprivate unbindable shared", Mount{Flags: []string{"noatime", "strictatime", "sync"}}},
	} {
		m := Mount{Type: tt.kind}
		for o := range strings.SplitSeq(tt.options, " ") {
			if err := m.SetOption(o); err != nil {
				t.Errorf("%q: %q: %v", tt.options, o, err)
			}
		}
		if tt.want.Type = tt.kind; !reflect.DeepEqual(m, tt.want) {
			t.Errorf("%q: got %+v, want %+v", tt.options, m, tt.want)
		}
	}
	for _, tt := range []struct {
		kind    MountType
		option  string
		unknown bool
	}{
		{Bind, "size=1", true},
		{Bind, "remount", true},
		{Bind, "unbindable", true},
		{Bind, "lowerdir=/", true},
		{Tmpfs, "bind", true},
		{Tmpfs, "rnodev", true},
		{Tmpfs, "sise=1", true},
		{Tmpfs, "size=1,exec", true},
		{Tmpfs, "mode=9", false},
		{Tmpfs, "mode=10000", false},
		{Tmpfs, "uid=root", false},
	} {
		m := Mount{Type: tt.kind}
		if err := m.SetOption(tt.option); err == nil || errors.Is(err, ErrMountOption) != tt.unknown {
			t.Errorf("%q: got %v of %+v", tt.option, err, m)
		}
	}
}
