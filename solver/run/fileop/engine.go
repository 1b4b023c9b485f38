package fileop

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// An engine copies one source with several workers. Work lies on a stack: directories to make, and batches of files of
// directories that are there. A directory's metadata is set when everything in it has been done.
type engine struct {
	*copying
	top   *planDir
	links map[uint64]*linkGroup // inodes that have more than one name in what is copied
	prev  int                   // root of the previous result, or -1

	noClone, noRange atomic.Bool // the file systems cannot share blocks; cannot copy in the kernel

	mu    sync.Mutex // guards the fields below
	cond  *sync.Cond
	stack []job
	open  int // jobs that are not done
	err   error
}

// A planDir is a directory of the source.
type planDir struct {
	item  *treehash.Item
	files []*treehash.Item
	dirs  []*planDir
}

// A job is a directory to make in dir, or files to copy to it.
type job struct {
	dir   *dstDir
	plan  *planDir
	name  string // of the directory, or of the one file if that is copied under another name
	top   bool   // the directory is the source itself
	files []*treehash.Item
}

// batch is how many files one job copies.
const batch = 32

// A linkGroup is an inode with several names. The first one to get there copies it, the others wait and link.
type linkGroup struct {
	once sync.Once
	done chan struct{}
	path string // of the first name, below the root that is written
	ok   bool
}

func newEngine(cp *copying, items []treehash.Item) *engine {
	e := &engine{copying: cp, links: map[uint64]*linkGroup{}, prev: -1}
	e.cond = sync.NewCond(&e.mu)
	if p := cp.draft.Previous; p != nil && cp.draft.manifest != nil {
		e.prev = int(p.Fd())
	}
	names := map[uint64]int{}
	chain := []*planDir{{item: &items[0]}}
	e.top = chain[0]
	for i := range items {
		it := &items[i]
		if it.Entry.Hard != 0 && it.Entry.IsRegular() {
			if names[it.Entry.Hard]++; names[it.Entry.Hard] == 2 {
				e.links[it.Entry.Hard] = &linkGroup{done: make(chan struct{})}
			}
		}
		if i == 0 {
			continue
		}
		// Items come depth first, so the parent is on the way from the root to the last directory.
		for len(chain) > 1 && !inside(it.Rel, chain[len(chain)-1].item.Rel) {
			chain = chain[:len(chain)-1]
		}
		d := chain[len(chain)-1]
		if it.Entry.IsDir() {
			c := &planDir{item: it}
			d.dirs = append(d.dirs, c)
			chain = append(chain, c)
		} else {
			d.files = append(d.files, it)
		}
	}
	return e
}

func inside(rel, dir string) bool {
	return len(rel) > len(dir) && rel[:len(dir)] == dir && rel[len(dir)] == '/'
}

// whiteoutPrefix begins the names by which layers say that a file is removed.
const whiteoutPrefix = ".wh."

// unsayable warns of names that are in the tree from now on and that no layer can have: in one they would remove other
// files. Layers are written without them.
func (e *engine) unsayable(items []treehash.Item, name string) {
	for i := range items {
		if i > 0 || name == "" {
			name = path.Base(items[i].Rel)
		}
		if strings.HasPrefix(name, whiteoutPrefix) {
			e.leftOut(strconv.Quote(items[i].Entry.Path))
			return
		}
	}
}

// leftOut warns of a file that no layer can have.
func (cp *copying) leftOut(file string) {
	cp.warn(solver.Warning{
		Short:  fmt.Sprintf("%s is left out of the image: in a layer, a name that begins with %q removes another file", file, whiteoutPrefix),
		Detail: []string{"Rename the file, or exclude it by .dockerignore or --exclude. Later steps of this build still see it."},
	})
}

// run copies the source to the directory p, under name, or its contents if name is empty.
func (e *engine) run(ctx context.Context, p *place, name string) error {
	root := &dstDir{up: p.up, low: p.low, path: p.path, prev: -1, borrowed: true}
	root.pending.Store(1)
	if err := root.load(); err != nil {
		return err
	}
	if e.prev >= 0 {
		root.prev = openPrev(e.prev, p.path)
	}
	switch it := e.top.item; {
	case !it.Entry.IsDir():
		e.push(job{dir: root, name: name, files: []*treehash.Item{it}})
	case name != "":
		e.push(job{dir: root, plan: e.top, name: name, top: true})
	default:
		m := e.metaOf(it.Entry)
		root.finish, root.timeOnly = &m, true
		e.fill(root, e.top)
	}
	e.done(root)

	stop := context.AfterFunc(ctx, func() { e.fail(context.Cause(ctx)) })
	defer stop()
	var wg sync.WaitGroup
	for range min(8, max(4, runtime.GOMAXPROCS(0))) {
		wg.Go(func() { e.work(ctx) })
	}
	wg.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		for _, j := range e.stack { // left there; their directories are open
			j.dir.abandon()
		}
	}
	return e.err
}

func openPrev(root int, p string) int {
	fd, err := dirfd.Open(root, p, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1
	}
	return fd
}

func (e *engine) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
	e.cond.Broadcast()
}

func (e *engine) push(jobs ...job) {
	for _, j := range jobs {
		j.dir.pending.Add(1)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stack = append(e.stack, jobs...)
	e.open += len(jobs)
	e.cond.Broadcast()
}

// fill queues what is in a directory. Subdirectories come first on the stack, so that files are done before them and
// few directories are open.
func (e *engine) fill(d *dstDir, p *planDir) {
	jobs := make([]job, 0, len(p.dirs)+len(p.files)/batch+1)
	for i := len(p.dirs) - 1; i >= 0; i-- {
		jobs = append(jobs, job{dir: d, plan: p.dirs[i], name: path.Base(p.dirs[i].item.Rel)})
	}
	for files := p.files; len(files) > 0; {
		n := min(batch, len(files))
		jobs = append(jobs, job{dir: d, files: files[:n]})
		files = files[n:]
	}
	if len(jobs) > 0 {
		e.push(jobs...)
	}
}

func (e *engine) work(ctx context.Context) {
	w := &copier{engine: e}
	for {
		e.mu.Lock()
		for len(e.stack) == 0 && e.open > 0 && e.err == nil {
			e.cond.Wait()
		}
		if len(e.stack) == 0 || e.err != nil {
			e.mu.Unlock()
			break
		}
		j := e.stack[len(e.stack)-1]
		e.stack = e.stack[:len(e.stack)-1]
		e.mu.Unlock()

		if err := w.do(ctx, &j); err != nil {
			e.fail(err)
		}
		e.done(j.dir)
		e.mu.Lock()
		if e.open--; e.open == 0 {
			e.cond.Broadcast()
		}
		e.mu.Unlock()
	}
	if w.record != nil {
		e.draft.record.add(w.record)
	}
}

// done notes that a job of the directory is done; with the last one the directory is finished.
func (e *engine) done(d *dstDir) {
	for d != nil && d.pending.Add(-1) == 0 {
		e.mu.Lock()
		failed := e.err != nil
		e.mu.Unlock()
		if !failed {
			if err := d.complete(); err != nil {
				e.fail(err)
			}
		}
		d.close()
		d = d.parent
	}
}

// A dstDir is a directory that is copied to.
type dstDir struct {
	parent   *dstDir
	up, low  int // as in place
	prev     int // the same directory in the previous result, or -1
	path     string
	borrowed bool            // up and low belong to a place
	below    map[string]bool // names in low, and whether they are directories
	pending  atomic.Int32    // jobs and directories in it that are not done, and one while jobs are being queued
	finish   *meta           // what the directory gets when it is done
	timeOnly bool            // of that, only the time
	modeOnly bool            // of that, only the mode
	kept     int64           // the time that it then gets back, unless names were added
	named    atomic.Bool     // some were, or some were replaced
	xattr    map[string][]byte
	odd      atomic.Bool // files in it are not created as asked: a default ACL, or an inherited group
	probed   atomic.Bool
}

// load lists what shows through from below.
func (d *dstDir) load() error {
	if d.low < 0 {
		return nil
	}
	fd, err := dirfd.Open(d.low, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("reading directory %q: %w", d.path, bare(err))
	}
	defer dirfd.Close(fd)
	d.below = map[string]bool{}
	err = dirfd.List(fd, func(n dirfd.Name) error {
		isDir := n.Type == unix.DT_DIR
		if n.Type == unix.DT_UNKNOWN {
			var st dirfd.Stat
			if err := n.Lstat(fd, &st); err != nil {
				return err
			}
			isDir = st.Type() == unix.S_IFDIR
		}
		d.below[string(n.Bytes())] = isDir
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading directory %q: %w", d.path, bare(err))
	}
	return nil
}

func (d *dstDir) close() {
	if !d.borrowed {
		dirfd.Close(d.up)
		dirfd.Close(d.low)
	}
	dirfd.Close(d.prev)
}

// abandon gives up a job of d, and what is open for it.
func (d *dstDir) abandon() {
	for d != nil && d.pending.Add(-1) == 0 {
		d.close()
		d = d.parent
	}
}

// complete gives the directory its metadata.
func (d *dstDir) complete() error {
	if d.finish == nil {
		return nil
	}
	err := func() error {
		if d.modeOnly {
			if err := unix.Fchmod(d.up, d.finish.mode&0o7777); err != nil || d.named.Load() {
				return err
			}
			return setTime(d.up, d.kept)
		}
		if !d.timeOnly {
			if err := unix.Fchown(d.up, int(d.finish.uid), int(d.finish.gid)); err != nil {
				return err
			}
			if err := unix.Fchmod(d.up, d.finish.mode&0o7777); err != nil {
				return err
			}
			if err := setXattrs(d.up, "", d.xattr); err != nil {
				return err
			}
		}
		return setTime(d.up, d.finish.mtime)
	}()
	if err != nil {
		return fmt.Errorf("setting the metadata of %q: %w", d.path, err)
	}
	return nil
}

// setXattrs sets extended attributes, as far as the file system and our privileges allow: an image loses nothing by
// those that no container could have set either.
func setXattrs(dir int, name string, attrs map[string][]byte) error {
	for k, v := range attrs {
		err := dirfd.Setxattr(dir, name, k, v)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
			return bare(err)
		}
	}
	return nil
}

// sub makes or enters the directory name in d.
func (e *engine) sub(d *dstDir, name string, it *treehash.Item, top bool) (*dstDir, error) {
	c := &dstDir{parent: d, up: -1, low: -1, prev: -1, path: path.Join(d.path, name)}
	belowDir, below := d.below[name]
	made := true
	err := mkdirat(d.up, name)
	if errors.Is(err, unix.EEXIST) {
		if made, err = e.occupied(d, name, c.path); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, fmt.Errorf("making directory %q: %w", c.path, err)
	} else if below && !belowDir {
		_ = unix.Unlinkat(d.up, name, unix.AT_REMOVEDIR)
		return nil, fmt.Errorf("cannot copy to non-directory: %s", c.path)
	}
	if c.up, err = dirfd.OpenDir(d.up, name); err != nil {
		return nil, fmt.Errorf("opening directory %q: %w", c.path, bare(err))
	}
	if belowDir {
		if c.low, err = dirfd.OpenDir(d.low, name); err == nil {
			err = c.load()
		}
		if err == nil && made {
			err = copyUp(&place{up: c.up, low: c.low})
		}
		if err != nil {
			c.close()
			return nil, fmt.Errorf("opening directory %q: %w", c.path, bare(err))
		}
	}
	if d.prev >= 0 {
		if c.prev, err = dirfd.OpenDir(d.prev, name); err != nil {
			c.prev = -1
		}
	}
	if err := e.finishOf(c, it, top, made); err != nil {
		c.close()
		return nil, err
	}
	if made && !belowDir {
		d.named.Store(true)
	}
	c.pending.Store(1)
	d.pending.Add(1)
	return c, nil
}

// finishOf says what a directory that was made or entered gets when it is done.
func (e *engine) finishOf(c *dstDir, it *treehash.Item, top, made bool) error {
	m := e.metaOf(it.Entry)
	c.finish, c.xattr = &m, it.Entry.Xattr
	if made && c.low < 0 {
		return nil
	}
	if c.timeOnly = top; top || !it.Way {
		return nil
	}
	// What is only the way to something keeps its owner, whatever the copy says. It gets the mode of the source all the
	// same, as in BuildKit.
	c.modeOnly, m.mode = true, it.Entry.Mode
	was := c.up
	if made {
		was = c.low
	}
	var st dirfd.Stat
	if err := dirfd.Fstat(was, &st); err != nil {
		return fmt.Errorf("reading directory %q: %w", c.path, bare(err))
	}
	c.kept = st.MTime
	return nil
}

// occupied deals with something that is where a directory has to be. It says whether there is a new directory now; if
// not there is an old one.
func (e *engine) occupied(d *dstDir, name, full string) (made bool, err error) {
	var st dirfd.Stat
	if err := dirfd.Lstat(d.up, name, &st); err != nil {
		return false, fmt.Errorf("making directory %q: %w", full, bare(err))
	}
	switch {
	case st.Type() == unix.S_IFDIR:
		return false, nil
	case !e.c.AlwaysReplace:
		return false, fmt.Errorf("cannot copy to non-directory: %s", full)
	}
	if err := unix.Unlinkat(d.up, name, 0); err != nil {
		return false, fmt.Errorf("replacing %q: %w", full, err)
	}
	if err := mkdirat(d.up, name); err != nil {
		return false, fmt.Errorf("making directory %q: %w", full, err)
	}
	return true, nil
}
