package git

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A mirror is the bare repository that has what was fetched from one remote. It may be read while it is written to.
type mirror struct {
	dir  string
	lock chan struct{} // a token that who writes takes; a channel, so that waiting ends with a context
	uses int           // guarded by Client.mu: while not 0 it is not removed
}

// acquire returns the mirror of a remote for a hash of that many digits, until release is called. The mirror may not
// exist yet.
func (c *Client) acquire(url string, digits int) (m *mirror, release func()) {
	sum := sha256.Sum256([]byte(strconv.Itoa(digits) + " " + url))
	name := hex.EncodeToString(sum[:16])
	c.mu.Lock()
	defer c.mu.Unlock()
	m = c.mirrors[name]
	if m == nil {
		m = &mirror{dir: filepath.Join(c.repositories(), name), lock: make(chan struct{}, 1)}
		c.mirrors[name] = m
	}
	m.uses++
	return m, func() { c.release(name, m) }
}

func (c *Client) release(name string, m *mirror) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.uses--; m.uses == 0 {
		delete(c.mirrors, name)
	}
}

// keepRef is the ref of a mirror under which a commit stays, and can be fetched from it.
func keepRef(hash string) string { return "refs/boxbuild/" + hash }

// fetch makes sure that m has the commit or tag with that hash, with its tree. ref is where the remote has it, if known.
func (c *Client) fetch(ctx context.Context, m *mirror, r *Remote, hash, ref string) error {
	select {
	case m.lock <- struct{}{}:
		defer func() { <-m.lock }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.has(ctx, m, hash) {
		now := time.Now()
		_ = os.Chtimes(m.dir, now, now) // says when it was used last
		return nil
	}
	if err := c.initMirror(ctx, m, len(hash)); err != nil {
		return err
	}
	if r.Bundle != nil {
		if err := c.unbundle(ctx, m, r.Bundle, hash); err != nil {
			return err
		}
		c.consolidate(ctx, m)
		c.evict(ctx)
		return nil
	}
	acc, err := c.open(r)
	if err != nil {
		return err
	}
	defer acc.close()
	if err := c.download(ctx, m, acc, hash, ref); err != nil {
		return fmt.Errorf("fetching remote %s: %w", acc.url, err)
	}
	c.consolidate(ctx, m)
	c.evict(ctx)
	return nil
}

// maxPacks is how many packs a mirror has before those of about equal size are joined: each fetch brings one.
const maxPacks = 32

// consolidate joins packs, so that looking something up does not get slower with each fetch. An error leaves them.
func (c *Client) consolidate(ctx context.Context, m *mirror) {
	packs, err := filepath.Glob(filepath.Join(m.dir, "objects", "pack", "*.pack"))
	if err == nil && len(packs) > maxPacks {
		_, _ = c.run(ctx, &command{args: []string{"repack", "--geometric=2", "-d", "-q"}, gitDir: m.dir, quiet: true})
	}
}

// has says whether m has a commit, or a tag, that was fetched to the end: its ref is set last.
func (c *Client) has(ctx context.Context, m *mirror, hash string) bool {
	if _, err := os.Stat(filepath.Join(m.dir, "HEAD")); err != nil {
		return false
	}
	_, err := c.run(ctx, &command{
		args: []string{"rev-parse", "--verify", "--quiet", keepRef(hash) + "^{commit}"}, gitDir: m.dir, quiet: true,
	})
	return err == nil
}

// initMirror makes the repository, and removes what a git that was killed has left in one.
func (c *Client) initMirror(ctx context.Context, m *mirror, digits int) error {
	if _, err := os.Stat(filepath.Join(m.dir, "HEAD")); err == nil {
		for _, lock := range []string{"shallow.lock", "packed-refs.lock", "config.lock", "HEAD.lock"} {
			if err := os.Remove(filepath.Join(m.dir, lock)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	tmp, err := os.MkdirTemp(c.scratch(), "init-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if _, err := c.run(ctx, &command{args: initArgs(digits, "--bare"), gitDir: tmp, quiet: true}); err != nil {
		return err
	}
	if err := os.RemoveAll(m.dir); err != nil {
		return err
	}
	return os.Rename(tmp, m.dir)
}

func initArgs(digits int, more ...string) []string {
	args := append([]string{"init", "--quiet", "--template="}, more...)
	if digits == 64 {
		args = append(args, "--object-format=sha256")
	}
	return args
}

// download gets one commit without its history. Not every server can do that: some have no shallow clones (plain files
// over HTTP), some give only what a ref names, some neither.
func (c *Client) download(ctx context.Context, m *mirror, acc *access, hash, ref string) error {
	keep := hash + ":" + keepRef(hash)
	err := c.fetchRefs(ctx, m, acc, "--depth=1", keep)
	if err == nil || !isRefusal(err) {
		return err
	}
	if shallowRefused(err) {
		if err = c.fetchRefs(ctx, m, acc, "", keep); err == nil || !isRefusal(err) {
			return err
		}
	}
	if ref != "" {
		depth := "--depth=1"
		if shallowRefused(err) {
			depth = ""
		}
		e := c.fetchRefs(ctx, m, acc, depth, "+"+ref+":refs/boxbuild/last")
		if e == nil && c.keep(ctx, m, hash) == nil {
			return nil
		}
		if e != nil && !isRefusal(e) && !said(e, "couldn't find remote ref") {
			return e
		}
	}
	// The commit may be anywhere in the history.
	depth := ""
	if _, serr := os.Stat(filepath.Join(m.dir, "shallow")); serr == nil {
		depth = "--unshallow"
	}
	if err := c.fetchRefs(ctx, m, acc, depth, "+refs/*:refs/remote/*"); err != nil {
		return err
	}
	if err := c.keep(ctx, m, hash); err != nil {
		return fmt.Errorf("the repository has no commit %s", hash)
	}
	return nil
}

// fetchRefs runs git-fetch.
func (c *Client) fetchRefs(ctx context.Context, m *mirror, acc *access, depth, spec string) error {
	args := []string{"fetch", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules"}
	if depth != "" {
		args = append(args, depth)
	}
	_, err := c.run(ctx, &command{args: append(args, "--", acc.url, spec), gitDir: m.dir, access: acc, late: true})
	return err
}

// keep sets the ref that says that the commit is there.
func (c *Client) keep(ctx context.Context, m *mirror, hash string) error {
	_, err := c.run(ctx, &command{
		args: []string{"rev-parse", "--verify", "--quiet", hash + "^{commit}"}, gitDir: m.dir, quiet: true,
	})
	if err != nil {
		return err
	}
	_, err = c.run(ctx, &command{
		args: []string{"update-ref", "--no-deref", keepRef(hash), hash}, gitDir: m.dir, quiet: true,
	})
	return err
}

// isRefusal says whether the server answered that it cannot do what was asked, as opposed to not answering well. The
// texts are those of fetch-pack.c, upload-pack.c, remote-curl.c and http-walker.c.
func isRefusal(err error) bool {
	return shallowRefused(err) || said(err,
		"not our ref", "unadvertised object", "no such remote ref", "couldn't find remote ref", "Unable to find",
		"could not fetch", "did not send all necessary objects", "error processing wants", "Could not read")
}

func shallowRefused(err error) bool {
	return said(err, "shallow", "--depth")
}

// evict removes the mirrors that nobody has used for longest while there are more bytes than there may be.
func (c *Client) evict(ctx context.Context) {
	_, _, _ = c.measure.Do("", func() (any, error) { return nil, c.shrink(ctx, c.opt.MaxBytes) })
}

// A usedMirror is a mirror as found on the disk.
type usedMirror struct {
	name string
	used time.Time
	size int64
}

func (c *Client) shrink(ctx context.Context, limit int64) error {
	entries, err := os.ReadDir(c.repositories())
	if err != nil {
		return err
	}
	var all []usedMirror
	var total int64
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := e.Info()
		if err != nil {
			continue // removed meanwhile
		}
		u := usedMirror{e.Name(), info.ModTime(), sizeOf(filepath.Join(c.repositories(), e.Name()))}
		total += u.size
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b usedMirror) int { return a.used.Compare(b.used) })
	for _, u := range all {
		if total <= limit {
			break
		}
		if c.drop(u.name) {
			total -= u.size
		}
	}
	return nil
}

// drop removes a mirror that nobody uses. Who wants it meanwhile waits for its lock, and then finds none.
func (c *Client) drop(name string) bool {
	dir := filepath.Join(c.repositories(), name)
	c.mu.Lock()
	if c.mirrors[name] != nil {
		c.mu.Unlock()
		return false
	}
	m := &mirror{dir: dir, lock: make(chan struct{}, 1), uses: 1}
	m.lock <- struct{}{}
	c.mirrors[name] = m
	c.mu.Unlock()
	away, err := os.MkdirTemp(c.scratch(), "old-")
	if err == nil {
		err = os.Rename(dir, filepath.Join(away, name))
	}
	<-m.lock
	c.release(name, m)
	if away != "" {
		err = errors.Join(err, os.RemoveAll(away))
	}
	return err == nil
}

// sizeOf counts the bytes of the files below dir, as far as it can.
func sizeOf(dir string) int64 {
	var n int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what vanishes has no size
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return nil
	})
	return n
}

// Usage returns how many bytes the mirrors have.
func (c *Client) Usage() int64 { return sizeOf(c.repositories()) }

// Prune removes the mirrors that nobody uses until at most limit bytes are left, and returns how many bytes that freed.
func (c *Client) Prune(ctx context.Context, limit int64) (int64, error) {
	before := c.Usage()
	if err := c.shrink(ctx, limit); err != nil {
		return 0, fmt.Errorf("removing Git mirrors: %w", err)
	}
	return max(0, before-c.Usage()), nil
}

// commitTime returns the committer's time of a commit, or of the commit of a tag.
func (c *Client) commitTime(ctx context.Context, m *mirror, hash string) (time.Time, error) {
	out, err := c.run(ctx, &command{
		args: []string{"log", "-1", "--no-show-signature", "--format=%ct", hash + "^{commit}", "--"}, gitDir: m.dir, quiet: true,
	})
	if err != nil {
		return time.Time{}, err
	}
	s, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the time of commit %s: %w", hash, err)
	}
	return time.Unix(s, 0).UTC(), nil
}

// CommitTime returns the committer's time of src.Commit, which is fetched if need be.
func (c *Client) CommitTime(ctx context.Context, src *Source) (time.Time, error) {
	a, err := parseRemote(src.Remote.URL)
	if err != nil {
		return time.Time{}, err
	}
	m, release := c.acquire(a.url, len(src.Commit))
	defer release()
	if err := c.fetch(ctx, m, &src.Remote, src.Commit, src.Ref); err != nil {
		return time.Time{}, err
	}
	return c.commitTime(ctx, m, src.Commit)
}
