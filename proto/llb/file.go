package llb

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A filing is a File while it is decoded. Both in LLB and in package op a number below that of the inputs is an input and
// one from there on is the result of an action; but the inputs are not the same, so that numbers of results are moved when
// it is known how many inputs there are.
type filing struct {
	*wired
	file *op.File
	// base is, for each action so far, the input of the definition that its tree has grown from; -1 for the empty tree.
	base []int64
}

// result marks, until all actions are decoded, that a number is that of an action.
const result = 1 << 30

// file decodes a File.
func (w *wired) file(f *pb.FileOp) (solver.Op, error) {
	if f == nil || len(f.Actions) == 0 {
		return nil, errors.New("invalid file op with no actions")
	}
	if len(f.Actions) >= result || len(w.in) >= result {
		return nil, errors.New("too many actions or inputs")
	}
	fl := &filing{wired: w, file: &op.File{}}
	taken := make([]bool, len(f.Actions))
	most := 0
	for i, a := range f.Actions {
		if err := fl.action(a); err != nil {
			return nil, fmt.Errorf("action %d: %w", i, err)
		}
		if a.Output == int64(pb.SkipOutput) {
			continue
		}
		if a.Output < 0 || a.Output >= int64(len(taken)) || taken[a.Output] {
			return nil, fmt.Errorf("action %d has output %d, which is taken or out of range", i, a.Output)
		}
		taken[a.Output] = true
		most = max(most, int(a.Output)+1)
	}
	for i := range max(most, 1) {
		if !taken[i] {
			return nil, fmt.Errorf("no action has output %d", i)
		}
	}
	fl.settle()
	return fl.file, nil
}

// action decodes one action.
func (f *filing) action(a *pb.FileAction) error {
	if a == nil {
		return errors.New("it is empty")
	}
	out := op.FileAction{Output: int(a.Output)}
	base, err := f.tree("it", a.Input)
	if err != nil {
		return err
	}
	out.Input = f.numbered(a.Input)
	f.base = append(f.base, base)
	out.Second = op.NoInput
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		err = f.copy(&out, a, x.Copy)
	case *pb.FileAction_Mkfile:
		out.Mkfile, err = f.mkfile(x.Mkfile)
	case *pb.FileAction_Mkdir:
		out.Mkdir, err = f.mkdir(x.Mkdir)
	case *pb.FileAction_Symlink:
		out.Symlink, err = f.symlink(x.Symlink)
	case *pb.FileAction_Rm:
		out.Rm = &op.Rm{Path: clean(x.Rm.GetPath()), AllowNotFound: x.Rm.GetAllowNotFound(), Wildcard: x.Rm.GetAllowWildcard()}
	case nil:
		err = errors.New("it says nothing to do")
	default:
		err = fmt.Errorf("unknown kind of action %T", x)
	}
	if err == nil && out.Copy == nil && a.SecondaryInput != int64(pb.Empty) && a.SecondaryInput != 0 {
		// 0 is what a client leaves that does not know of secondary inputs.
		_, err = f.tree("its secondary input", a.SecondaryInput)
	}
	if err != nil {
		return err
	}
	f.file.Actions = append(f.file.Actions, out)
	return nil
}

// tree checks a number of an action that has no result yet, and returns the input that its tree has grown from.
func (f *filing) tree(what string, n int64) (base int64, err error) {
	actions := int64(len(f.file.Actions))
	switch k := int64(len(f.in)); {
	case n == int64(pb.Empty):
		return n, nil
	case n >= 0 && n < k:
		return int64(f.first(int(n))), nil
	case n >= k && n < k+actions:
		return f.base[n-k], nil
	}
	return 0, fmt.Errorf("%s reads from %d, which is neither an input nor an earlier action", what, n)
}

// numbered returns the number, before settle, of a tree that is used whole.
func (f *filing) numbered(n int64) int {
	switch k := int64(len(f.in)); {
	case n < 0:
		return op.NoInput
	case n < k:
		return f.whole(int(n))
	default:
		return result + int(n-k)
	}
}

// settle gives trees their numbers. The uses of inputs stay in their order, unless the definition names its inputs in
// another one: then they go by that, so that it comes out the same again.
func (f *filing) settle() {
	order := make([]int, len(f.uses)) // by the new number
	for i := range order {
		order[i] = i
	}
	if !f.inOrder() {
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(f.uses[a].in, f.uses[b].in) })
	}
	uses, moved := make([]use, len(order)), make([]int, len(order))
	for now, was := range order {
		uses[now], moved[was] = f.uses[was], now
	}
	f.uses = uses
	total := len(f.uses) + len(f.unused())
	move := func(n *int) {
		switch {
		case *n >= result:
			*n += total - result
		case *n >= 0:
			*n = moved[*n]
		}
	}
	for i := range f.file.Actions {
		a := &f.file.Actions[i]
		move(&a.Input)
		move(&a.Second)
		if o := ownerOf(a); o != nil {
			o.UserTree, o.GroupTree = o.UserTree-1, o.GroupTree-1
			move(&o.UserTree)
			move(&o.GroupTree)
			o.UserTree, o.GroupTree = o.UserTree+1, o.GroupTree+1
		}
	}
}

// inOrder says whether inputs are used for the first time in the order of their numbers.
func (f *filing) inOrder() bool {
	next := 0
	for _, u := range f.uses {
		if u.in > next {
			return false
		}
		if u.in == next {
			next++
		}
	}
	return true
}

// ownerOf returns the owner that an action gives; nil if it gives none.
func ownerOf(a *op.FileAction) *op.Owner {
	switch {
	case a.Copy != nil:
		return a.Copy.Owner
	case a.Mkfile != nil:
		return a.Mkfile.Owner
	case a.Mkdir != nil:
		return a.Mkdir.Owner
	case a.Symlink != nil:
		return a.Symlink.Owner
	}
	return nil
}

func (f *filing) copy(out *op.FileAction, a *pb.FileAction, c *pb.FileActionCopy) error {
	if c == nil {
		return errors.New("it is an empty copy")
	}
	if _, err := f.tree("its source", a.SecondaryInput); err != nil {
		return err
	}
	x := &op.Copy{
		Src: clean(c.Src), Dst: cleanTarget(c.Dest), ModeString: c.ModeStr, FollowSymlinks: c.FollowSymlink, DirContents: c.DirCopyContents,
		Unpack: c.AttemptUnpackDockerCompatibility, MkdirDst: c.CreateDestPath, Wildcard: c.AllowWildcard, EmptyWildcard: c.AllowEmptyWildcard,
		Include: c.IncludePatterns, Exclude: c.ExcludePatterns, AlwaysReplace: c.AlwaysReplaceExistingDestPaths, Required: c.RequiredPaths,
		Time: timestamp(c.Timestamp),
	}
	switch {
	case c.ModeStr != "": // the other is 0 then, or means nothing
	case c.Mode >= 0:
		x.Mode, x.ModeSet = uint32(c.Mode), true
	case c.Mode != -1:
		return fmt.Errorf("invalid mode %d", c.Mode)
	}
	var err error
	if x.Owner, err = f.owner(c.Owner); err != nil {
		return err
	}
	out.Copy = x
	if n := a.SecondaryInput; n >= 0 && n < int64(len(f.in)) {
		out.Second = f.part(int(n), copySelector(x))
	} else {
		out.Second = f.numbered(n)
	}
	return nil
}

// copySelector returns what a copy reads of its source. It has names where that lets op.File leave out where the source is.
func copySelector(c *op.Copy) *solver.Selector {
	return &solver.Selector{
		Paths: []string{c.Src}, Wildcard: c.Wildcard, Follow: c.FollowSymlinks, Include: c.Include, Exclude: c.Exclude,
		Named: c.DirContents,
	}
}

func (f *filing) mkfile(m *pb.FileActionMkFile) (*op.Mkfile, error) {
	mode, err := fileMode(m.GetMode())
	if err != nil {
		return nil, err
	}
	owner, err := f.owner(m.GetOwner())
	return &op.Mkfile{Path: clean(m.GetPath()), Mode: mode, Data: m.GetData(), Owner: owner, Time: timestamp(m.GetTimestamp())}, err
}

func (f *filing) mkdir(m *pb.FileActionMkDir) (*op.Mkdir, error) {
	mode, err := fileMode(m.GetMode())
	if err != nil {
		return nil, err
	}
	owner, err := f.owner(m.GetOwner())
	return &op.Mkdir{Path: clean(m.GetPath()), Mode: mode, Parents: m.GetMakeParents(), Owner: owner, Time: timestamp(m.GetTimestamp())}, err
}

// symlink decodes the making of a symbolic link. What it says is text that is never followed here.
func (f *filing) symlink(s *pb.FileActionSymlink) (*op.Symlink, error) {
	owner, err := f.owner(s.GetOwner())
	return &op.Symlink{Old: s.GetOldpath(), New: clean(s.GetNewpath()), Owner: owner, Time: timestamp(s.GetTimestamp())}, err
}

func fileMode(m int32) (uint32, error) {
	if m < 0 {
		return 0, fmt.Errorf("invalid mode %d", m)
	}
	return uint32(m), nil
}

// timestamp decodes a time in nanoseconds; -1 is none.
func timestamp(t int64) time.Time {
	if t == -1 {
		return time.Time{}
	}
	return time.Unix(0, t).UTC()
}

// owner decodes an owner. A user by number without a group has the group of that number, as in BuildKit.
func (f *filing) owner(c *pb.ChownOpt) (*op.Owner, error) {
	if c == nil {
		return nil, nil
	}
	o := &op.Owner{}
	switch u := c.User.GetUser().(type) {
	case *pb.UserOpt_ByID:
		o.UID = op.OwnerID(u.ByID)
		o.GID = o.UID
	case *pb.UserOpt_ByName:
		if u.ByName.GetName() == "" {
			return nil, errors.New("a user without a name")
		}
		o.User, o.GID = u.ByName.GetName(), op.PrimaryGroup
		var err error
		if o.UserTree, err = f.names(u.ByName.GetInput()); err != nil {
			return nil, err
		}
	}
	switch u := c.Group.GetUser().(type) {
	case *pb.UserOpt_ByID:
		o.GID = op.OwnerID(u.ByID)
	case *pb.UserOpt_ByName:
		if u.ByName.GetName() == "" {
			return nil, errors.New("a group without a name")
		}
		o.Group, o.GID = u.ByName.GetName(), 0
		var err error
		if o.GroupTree, err = f.names(u.ByName.GetInput()); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// names returns the tree that has the files of users and groups, as op.Owner has it. What clients name is the input
// that the changed tree has grown from, which is the tree that is being changed: no client has one operation write these
// files and look names up in them.
func (f *filing) names(n int64) (int, error) {
	tree, err := f.tree("an owner", n)
	switch base := f.base[len(f.base)-1]; {
	case err != nil:
		return 0, err
	case n < int64(len(f.in)) && tree == base:
		return 0, nil
	case n < 0:
		return 0, fmt.Errorf("invalid user index %d", n)
	}
	return f.numbered(n) + 1, nil
}
