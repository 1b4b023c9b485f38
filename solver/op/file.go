package op

import (
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
)

// File changes file system trees by a list of actions. It has an output for each action that has one.
//
// An action's Input and Second are numbers: below the number of the vertex's inputs they name an input, from there on
// the result of an earlier action of the list, counted from 0; NoInput is an empty tree.
type File struct {
	Actions  []FileAction
	Platform Platform
}

// FileAction is one change. Exactly one of the pointers is set.
type FileAction struct {
	Input  int // what is changed
	Second int // what Copy reads from, else NoInput
	Output int // index of the vertex's result that this action's result is, or NoOutput

	Copy    *Copy
	Mkfile  *Mkfile
	Mkdir   *Mkdir
	Rm      *Rm
	Symlink *Symlink
}

// PrimaryGroup as Owner.GID, with an empty Owner.Group, means the group that the files give the user named in User.
const PrimaryGroup = -1

// OwnerID is the number of a user or group that BuildKit gives a new file which is to be id's. To chown(2) the highest number
// means that nothing is to be changed.
func OwnerID(id uint32) int {
	if id == math.MaxUint32 {
		return 0
	}
	return int(id)
}

// Owner is a user and a group, by name or number; an empty name means the number. Names are looked up in the files
// of the tree that is being changed, unless UserTree or GroupTree say otherwise.
type Owner struct {
	User, Group string
	UID, GID    int
	// UserTree and GroupTree say which tree's /etc/passwd and /etc/group have the names: 1 more than a number as
	// FileAction.Input has it, or 0 for the tree that is being changed.
	UserTree, GroupTree int
}

// Copy copies files from one tree to another.
type Copy struct {
	Src, Dst string // absolute; a Dst that ends in a slash is a directory
	Owner    *Owner // nil keeps the source's
	// Mode replaces permission bits, if ModeSet; ModeString is the symbolic form, such as "u=rwX,go=rX".
	Mode       uint32
	ModeSet    bool
	ModeString string

	FollowSymlinks   bool // Src, if it is a symlink, is resolved in the source's root
	DirContents      bool // of a directory its contents are copied, not itself
	Unpack           bool // an archive is extracted, by content
	MkdirDst         bool // parents of Dst are made
	Wildcard         bool // Src is a filepath.Match pattern
	EmptyWildcard    bool // a pattern that matches nothing is no error
	Include, Exclude []string
	AlwaysReplace    bool      // what is in the way is removed, even of another type
	Required         []string  // paths that must exist though Src is a pattern
	Time             time.Time // timestamp of what is written; zero keeps the source's
}

// Mkfile writes a file.
type Mkfile struct {
	Path  string
	Mode  uint32
	Data  []byte
	Owner *Owner
	Time  time.Time
}

// Mkdir makes a directory.
type Mkdir struct {
	Path    string
	Mode    uint32
	Parents bool
	Owner   *Owner
	Time    time.Time
}

// Rm removes a path.
type Rm struct {
	Path          string
	AllowNotFound bool
	Wildcard      bool
}

// Symlink makes a symbolic link at New that says Old.
type Symlink struct {
	Old, New string
	Owner    *Owner
	Time     time.Time
}

// Outputs implements solver.Outputter.
func (f *File) Outputs() int {
	n := 0
	for i := range f.Actions {
		n = max(n, f.Actions[i].Output+1)
	}
	return n
}

// WriteKey implements solver.Op.
func (f *File) WriteKey(h *solver.Hasher) {
	h.Version("file", 1)
	writePlatform(h, f.Platform)
	for i := range f.Actions {
		f.Actions[i].writeKey(h)
	}
}

// WriteStepKey implements solver.ByContent: where a copy finds its files does not matter when what it finds is in the key.
func (f *File) WriteStepKey(h *solver.Hasher, inputs []solver.Input) {
	h.Version("file", 1)
	writePlatform(h, f.Platform)
	for i := range f.Actions {
		a := f.Actions[i]
		if a.Copy != nil && a.Second >= 0 && a.Second < len(inputs) && a.Copy.foundBy(inputs[a.Second].Select) {
			c := *a.Copy
			c.Src = "" // no path that WriteKey writes is empty
			a.Copy = &c
		}
		a.writeKey(h)
	}
}

// foundBy says whether the content that sel selects is all that c depends on of its source. The name of a file counts,
// since it may be the name of the copy; that of a directory does not, if only its contents are copied. Patterns are
// left out: by them names count that depend on where the source is.
func (c *Copy) foundBy(sel *solver.Selector) bool {
	return sel != nil && sel.Named && c.DirContents && !c.Wildcard && !sel.Wildcard && len(c.Required) == 0 &&
		len(sel.Paths) == 1 && sel.Paths[0] == path.Join("/", c.Src) && sel.Follow == c.FollowSymlinks &&
		slices.Equal(sel.Include, c.Include) && slices.Equal(sel.Exclude, c.Exclude)
}

func (a *FileAction) writeKey(h *solver.Hasher) {
	h.Int("action.input", int64(a.Input))
	h.Int("action.second", int64(a.Second))
	h.Int("action.output", int64(a.Output))
	switch {
	case a.Copy != nil:
		a.Copy.writeKey(h)
	case a.Mkfile != nil:
		h.Str("mkfile", a.Mkfile.Path)
		h.Int("mkfile.mode", int64(a.Mkfile.Mode))
		h.Str("mkfile.data", digest.FromBytes(a.Mkfile.Data).String())
		writeOwner(h, a.Mkfile.Owner)
		writeTime(h, a.Mkfile.Time)
	case a.Mkdir != nil:
		h.Str("mkdir", a.Mkdir.Path)
		h.Int("mkdir.mode", int64(a.Mkdir.Mode))
		h.Bool("mkdir.parents", a.Mkdir.Parents)
		writeOwner(h, a.Mkdir.Owner)
		writeTime(h, a.Mkdir.Time)
	case a.Rm != nil:
		h.Str("rm", a.Rm.Path)
		h.Bool("rm.allownotfound", a.Rm.AllowNotFound)
		h.Bool("rm.wildcard", a.Rm.Wildcard)
	case a.Symlink != nil:
		h.Str("symlink.old", a.Symlink.Old)
		h.Str("symlink.new", a.Symlink.New)
		writeOwner(h, a.Symlink.Owner)
		writeTime(h, a.Symlink.Time)
	}
}

func (c *Copy) writeKey(h *solver.Hasher) {
	h.Str("copy.src", c.Src)
	h.Str("copy.dst", c.Dst)
	writeOwner(h, c.Owner)
	if c.ModeSet {
		h.Int("copy.mode", int64(c.Mode))
	}
	if c.ModeString != "" {
		h.Str("copy.modestring", c.ModeString)
	}
	h.Bool("copy.follow", c.FollowSymlinks)
	h.Bool("copy.dircontents", c.DirContents)
	h.Bool("copy.unpack", c.Unpack)
	h.Bool("copy.mkdirdst", c.MkdirDst)
	h.Bool("copy.wildcard", c.Wildcard)
	h.Bool("copy.emptywildcard", c.EmptyWildcard)
	h.Strs("copy.include", c.Include)
	h.Strs("copy.exclude", c.Exclude)
	if c.picksBelow() {
		h.Int("copy.way", 1) // results without it have the owner of the source on directories that were there
	}
	h.Bool("copy.alwaysreplace", c.AlwaysReplace)
	h.Strs("copy.required", c.Required)
	writeTime(h, c.Time)
}

// picksBelow says whether the patterns may pick something without the directory that it is in.
func (c *Copy) picksBelow() bool {
	return len(c.Include) > 0 || slices.ContainsFunc(c.Exclude, func(p string) bool { return strings.Contains(p, "!") })
}

func writeOwner(h *solver.Hasher, o *Owner) {
	if o != nil {
		h.Strs("owner", []string{o.User, strconv.Itoa(o.UID), o.Group, strconv.Itoa(o.GID)})
		if o.UserTree != 0 || o.GroupTree != 0 {
			h.Strs("owner.trees", []string{strconv.Itoa(o.UserTree), strconv.Itoa(o.GroupTree)})
		}
	}
}

func writeTime(h *solver.Hasher, t time.Time) {
	if !t.IsZero() {
		h.Int("time", t.UnixNano())
	}
}

func (f *File) String() string {
	if len(f.Actions) == 0 {
		return "file"
	}
	switch a := &f.Actions[0]; {
	case a.Copy != nil:
		return "copy " + a.Copy.Src + " " + a.Copy.Dst
	case a.Mkfile != nil:
		return "mkfile " + a.Mkfile.Path
	case a.Mkdir != nil:
		return "mkdir " + a.Mkdir.Path
	case a.Rm != nil:
		return "rm " + a.Rm.Path
	case a.Symlink != nil:
		return "symlink " + a.Symlink.New
	}
	return "file"
}
