// Package git brings files in from Git repositories. It drives the git program of the machine, since no second
// implementation would agree with it about every server, and keeps what it has fetched.
//
// # Life cycle
//
// A Client lives as long as the daemon. Resolve asks a remote what a ref means; Checkout writes the tree of a commit into
// a directory. Between them stands a mirror: a bare repository for each remote, below the client's directory, which has
// every commit that was asked for and nothing else, unless the server cannot give single commits. Submodules are
// fetched into mirrors of their own remotes, so two repositories that share one share what was fetched.
//
// # What is trusted
//
// Nothing that a remote sends. The git program runs without any configuration but what command.go gives it: no hooks, no
// filters, no credential helpers, no prompts, and only the protocols http, https, ssh and git. What comes from outside
// stands after "--" or is a full hash, and cannot begin with "-". Submodules are read here, not by git-submodule: their
// URLs pass the same check as the remote itself, and their paths are made without following symlinks. Trees are counted
// before they are written, so that a small repository cannot become a full disk.
//
// Credentials go to git through its environment, never through arguments, which other users of the machine can read. They
// are removed from URLs before these are shown, stored, or named in an error.
//
// # Lock order
//
// A mirror's lock is held while git writes to it, so across I/O; Client.mu is a leaf and never held during I/O. Nobody
// waits for a mirror while holding the lock of another.
package git

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/singleflight"
)

// Options are those of a Client. The zero value of each but Dir is a good default.
type Options struct {
	// Dir is where mirrors and scratch files are; it belongs to the client alone.
	Dir string
	// Program is the git program; "git" from PATH if empty.
	Program string
	// MaxBytes is how much mirrors keep, in bytes; those unused for longest go first. 0 means DefaultMaxBytes.
	MaxBytes int64
	// MaxEntries and MaxTree bound the entries, and the bytes of files, of a tree with its submodules; 0 means
	// DefaultMaxEntries and DefaultMaxTree.
	MaxEntries, MaxTree int64
}

// The defaults of Options.
const (
	DefaultMaxBytes   = 10 << 30
	DefaultMaxEntries = 2_000_000
	DefaultMaxTree    = 64 << 30
)

// A Client fetches from Git repositories. It is safe for concurrent use.
type Client struct {
	opt  Options
	wrap []string // before the program: sets the umask, if ours is not what files are to be made with

	program func() (string, error) // finds the program

	mu      sync.Mutex // guards what follows
	mirrors map[string]*mirror

	measure singleflight.Group // one count of the mirrors' size at a time
}

// ErrNoProgram says that there is no git program.
var ErrNoProgram = errors.New(`the "git" program is not installed: a Git repository can only be read with it (package "git" of most distributions)`)

// New returns a Client whose directory is made if need be. What an earlier one left unfinished is removed. It does not
// look for the git program: only who uses a repository needs it.
func New(opt Options) (*Client, error) {
	if opt.Program == "" {
		opt.Program = "git"
	}
	for _, d := range []struct {
		v   *int64
		def int64
	}{{&opt.MaxBytes, DefaultMaxBytes}, {&opt.MaxEntries, DefaultMaxEntries}, {&opt.MaxTree, DefaultMaxTree}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	dir, err := filepath.Abs(opt.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the store of Git repositories: %w", err)
	}
	opt.Dir = dir
	c := &Client{opt: opt, mirrors: map[string]*mirror{}, wrap: umaskWrapper()}
	c.program = sync.OnceValues(func() (string, error) {
		p, err := exec.LookPath(opt.Program)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return "", ErrNoProgram
		}
		return p, err
	})
	if err := os.RemoveAll(c.scratch()); err != nil {
		return nil, fmt.Errorf("opening the store of Git repositories: %w", err)
	}
	for _, d := range []string{c.scratch(), c.repositories()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("opening the store of Git repositories: %w", err)
		}
	}
	return c, nil
}

func (c *Client) scratch() string      { return filepath.Join(c.opt.Dir, "tmp") }
func (c *Client) repositories() string { return filepath.Join(c.opt.Dir, "mirrors") }

// umaskWrapper returns what has to stand before a command so that it makes files 0644 and 0755: nothing, where that is
// so already. A process's umask is one for all its threads, so it cannot be set around a command.
func umaskWrapper() []string {
	b, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "Umask:"); ok && strings.TrimSpace(v) == "0022" {
				return nil
			}
		}
	}
	return []string{"/bin/sh", "-c", `umask 022 && exec "$@"`, "sh"}
}

// A Source is a tree of a repository: what Checkout writes.
type Source struct {
	Remote Remote
	// Commit is the full hash, in lower case, of a commit, or of a tag of one.
	Commit string
	// Ref is the full name of a ref that Commit was found at, if any: what is fetched from servers that do not give
	// single commits, and the name in a kept .git directory.
	Ref string
	// Subdir is the directory of the tree to write, relative; empty for the whole.
	Subdir string
	// KeepDir says that a .git directory is written too; not with a Subdir.
	KeepDir bool
	// SkipSubmodules leaves empty directories for submodules.
	SkipSubmodules bool
	// CommitTime gives everything the time of the commit, rather than the present.
	CommitTime bool
}

// A Logger takes what git says while it works, as it comes.
type Logger func(data []byte)

type loggerKey struct{}

// WithLogger returns a context whose git commands report to log.
func WithLogger(ctx context.Context, log Logger) context.Context {
	return context.WithValue(ctx, loggerKey{}, log)
}

func loggerOf(ctx context.Context) Logger {
	l, _ := ctx.Value(loggerKey{}).(Logger)
	return l
}
