package llb

import (
	"errors"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// file is the reverse of wired.file.
func (e *encoding) file(f *op.File) error {
	if f.Platform.OS != "" {
		return errors.New("LLB has no platform for files")
	}
	want := make(map[int]*solver.Selector)
	use := func(n int, sel *solver.Selector) {
		if n < len(e.in) {
			want[n] = sel
		}
	}
	for i := range f.Actions {
		a := &f.Actions[i]
		use(a.Input, nil)
		if a.Copy != nil {
			use(a.Second, copySelector(a.Copy))
		}
		if o := ownerOf(a); o != nil {
			use(o.UserTree-1, nil)
			use(o.GroupTree-1, nil)
		}
	}
	if err := e.finish(want); err != nil {
		return err
	}
	out := &pb.FileOp{}
	var base []int64
	for i := range f.Actions {
		a := &f.Actions[i]
		in := e.tree(a.Input)
		if k := int64(len(e.out.Inputs)); in >= k {
			base = append(base, base[in-k])
		} else {
			base = append(base, in)
		}
		x := &pb.FileAction{Input: in, SecondaryInput: e.tree(a.Second), Output: int64(a.Output)}
		if err := e.action(a, x, base[i]); err != nil {
			return err
		}
		out.Actions = append(out.Actions, x)
	}
	e.need(pb.CapFileBase)
	e.out.Op = &pb.Op_File{File: out}
	return nil
}

// tree returns the number in the definition of what n is in the vertex.
func (e *encoding) tree(n int) int64 {
	if n < len(e.in) {
		return e.number(n)
	}
	return int64(len(e.out.Inputs) + n - len(e.in))
}

// action writes one action. Names of users are looked up in base, unless it says otherwise.
func (e *encoding) action(a *op.FileAction, out *pb.FileAction, base int64) error {
	owner := func(o *op.Owner) *pb.ChownOpt { return e.owner(o, base) }
	switch {
	case a.Copy != nil:
		out.Action = &pb.FileAction_Copy{Copy: e.copy(a.Copy, owner)}
	case a.Mkfile != nil:
		m := a.Mkfile
		out.Action = &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{
			Path: m.Path, Mode: int32(m.Mode), Data: m.Data, Owner: owner(m.Owner), Timestamp: pbTime(m.Time),
		}}
	case a.Mkdir != nil:
		m := a.Mkdir
		out.Action = &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{
			Path: m.Path, Mode: int32(m.Mode), MakeParents: m.Parents, Owner: owner(m.Owner), Timestamp: pbTime(m.Time),
		}}
	case a.Symlink != nil:
		s := a.Symlink
		e.need(pb.CapFileSymlinkCreate)
		out.Action = &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{
			Oldpath: s.Old, Newpath: s.New, Owner: owner(s.Owner), Timestamp: pbTime(s.Time),
		}}
	case a.Rm != nil:
		e.needIf(a.Rm.Wildcard, pb.CapFileRmWildcard)
		out.Action = &pb.FileAction_Rm{Rm: &pb.FileActionRm{
			Path: a.Rm.Path, AllowNotFound: a.Rm.AllowNotFound, AllowWildcard: a.Rm.Wildcard,
		}}
	default:
		return errors.New("an action that does nothing")
	}
	return nil
}

func (e *encoding) copy(c *op.Copy, owner func(*op.Owner) *pb.ChownOpt) *pb.FileActionCopy {
	e.needIf(len(c.Include)+len(c.Exclude) > 0, pb.CapFileCopyIncludeExcludePatterns)
	e.needIf(len(c.Required) > 0, pb.CapFileCopyRequiredPaths)
	e.needIf(c.AlwaysReplace, pb.CapFileCopyAlwaysReplaceExistingDestPaths)
	out := &pb.FileActionCopy{
		Src: c.Src, Dest: c.Dst, Owner: owner(c.Owner), Mode: -1, ModeStr: c.ModeString, FollowSymlink: c.FollowSymlinks,
		DirCopyContents: c.DirContents, AttemptUnpackDockerCompatibility: c.Unpack, CreateDestPath: c.MkdirDst,
		AllowWildcard: c.Wildcard, AllowEmptyWildcard: c.EmptyWildcard, Timestamp: pbTime(c.Time),
		IncludePatterns: c.Include, ExcludePatterns: c.Exclude, AlwaysReplaceExistingDestPaths: c.AlwaysReplace, RequiredPaths: c.Required,
	}
	switch {
	case c.ModeString != "":
		out.Mode = 0
	case c.ModeSet:
		out.Mode = int32(c.Mode)
	}
	return out
}

func pbTime(t time.Time) int64 {
	if t.IsZero() {
		return -1
	}
	return t.UnixNano()
}

// owner is the reverse of filing.owner. The group of a user by number is always written.
func (e *encoding) owner(o *op.Owner, base int64) *pb.ChownOpt {
	if o == nil {
		return nil
	}
	named := func(name string, tree int) *pb.UserOpt {
		in := base
		if tree != 0 {
			in = e.tree(tree - 1)
		}
		return &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: name, Input: in}}}
	}
	byID := func(id int) *pb.UserOpt { return &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: uint32(id)}} }
	out := &pb.ChownOpt{User: byID(o.UID), Group: byID(o.GID)}
	if o.User != "" {
		out.User = named(o.User, o.UserTree)
	}
	switch {
	case o.Group != "":
		out.Group = named(o.Group, o.GroupTree)
	case o.User != "" && o.GID == op.PrimaryGroup:
		out.Group = nil
	}
	return out
}
