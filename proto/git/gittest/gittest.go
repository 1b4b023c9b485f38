// Package gittest makes Git repositories for tests and serves them as the world does: over smart HTTP, as plain files over
// HTTP, and with git's own daemon. Nothing of the user's configuration plays a part.
package gittest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Time is when every commit was made: 2001-09-09 01:46:40 UTC.
const Time = 1_000_000_000

// A Repo is a repository with a tree to change.
type Repo struct {
	t   testing.TB
	Dir string // of the tree; the repository is Dir/.git
}

// New makes an empty repository whose branch is "main". args are further ones for git-init.
func New(t testing.TB, args ...string) *Repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	r := &Repo{t, t.TempDir()}
	r.Git(append([]string{"init", "-q", "-b", "main"}, args...)...)
	return r
}

// Environ returns the environment of the git commands of tests.
func Environ() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@example.com",
		fmt.Sprintf("GIT_AUTHOR_DATE=%d +0000", Time), fmt.Sprintf("GIT_COMMITTER_DATE=%d +0000", Time), "LC_ALL=C",
	}
}

// Git runs git in the tree and returns what it prints, without the last newline.
func (r *Repo) Git(args ...string) string {
	r.t.Helper()
	return r.Input("", args...)
}

// Input is Git with a standard input.
func (r *Repo) Input(stdin string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "protocol.file.allow=always"}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stdin = r.Dir, Environ(), strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n")
}

// Write writes a file of the tree, and makes its directory.
func (r *Repo) Write(name, text string) {
	r.t.Helper()
	p := filepath.Join(r.Dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// Symlink makes a symlink in the tree.
func (r *Repo) Symlink(target, name string) {
	r.t.Helper()
	if err := os.Symlink(target, filepath.Join(r.Dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

// Commit commits the whole tree and returns the commit's hash.
func (r *Repo) Commit(message string) string {
	r.t.Helper()
	r.Git("add", "-A")
	r.Git("commit", "-q", "--allow-empty", "-m", message)
	return r.Git("rev-parse", "HEAD")
}

// Gitlink puts a submodule into the index, as a bare entry: .gitmodules is the caller's.
func (r *Repo) Gitlink(path, hash string) {
	r.t.Helper()
	r.Git("update-index", "--add", "--cacheinfo", "160000,"+hash+","+path)
}

// Tree makes a commit of a tree made of entries as "git mktree" reads them, which needs no sensible names.
func (r *Repo) Tree(entries string) string {
	r.t.Helper()
	tree := r.Input(entries, "mktree", "--missing")
	hash := r.Git("commit-tree", "-m", "tree", tree)
	r.Git("update-ref", "refs/heads/main", hash)
	return hash
}

// A Kind is a way to serve repositories.
type Kind string

// The kinds of servers.
const (
	Smart  Kind = "smart"  // git-http-backend
	Dumb   Kind = "dumb"   // plain files
	Daemon Kind = "daemon" // git-daemon
)

// Kinds are all kinds of servers.
var Kinds = []Kind{Smart, Dumb, Daemon}

// A Server serves repositories until the end of the test.
type Server struct {
	URL  string // ends without a slash
	t    testing.TB
	kind Kind
	root string

	mu       sync.Mutex // guards what follows
	user     string     // Authorization that is asked for; empty for none
	old      bool       // only the first version of the protocol
	requests []*http.Request
}

// Serve starts a server without repositories.
func Serve(t testing.TB, kind Kind) *Server {
	t.Helper()
	s := &Server{t: t, kind: kind, root: t.TempDir()}
	if kind == Daemon {
		s.daemon()
		return s
	}
	next := http.FileServer(http.Dir(s.root))
	if kind == Smart {
		out, err := exec.Command("git", "--exec-path").Output()
		if err != nil {
			t.Skip("needs git")
		}
		next = &cgi.Handler{
			Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"), Root: "/", Stderr: new(bytes.Buffer),
			Env: append(Environ(), "GIT_PROJECT_ROOT="+s.root, "GIT_HTTP_EXPORT_ALL=1",
				"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"),
		}
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, req)
		want, old := s.user, s.old
		s.mu.Unlock()
		if want != "" && req.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		// Version 2 of the protocol is asked for by a header of git's, which CGI passes on as a variable.
		if h, ok := next.(*cgi.Handler); ok {
			own := *h
			if !old {
				own.Env = append(own.Env[:len(own.Env):len(own.Env)], "GIT_PROTOCOL="+req.Header.Get("Git-Protocol"))
			} else {
				req.Header.Del("Git-Protocol")
			}
			own.ServeHTTP(w, req)
			return
		}
		next.ServeHTTP(w, req)
	}))
	t.Cleanup(web.Close)
	s.URL = web.URL
	return s
}

// daemon starts git-daemon on a free port of the loopback.
func (s *Server) daemon() {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	var conns sync.WaitGroup
	s.t.Cleanup(func() { _ = l.Close(); conns.Wait() })
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { s.inetd(c) })
		}
	})
	s.URL = "git://" + l.Addr().String()
}

// inetd serves one connection as inetd would have git-daemon do it, so that no process outlives the test.
func (s *Server) inetd(c net.Conn) {
	defer func() { _ = c.Close() }()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command("git", "daemon", "--inetd", "--export-all", "--base-path="+s.root, s.root)
	cmd.Env = append(Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	cmd.Stdin, cmd.Stdout = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	_ = cmd.Run() // the client sees it
}

// Publish puts a bare copy of r behind the server and returns its URL. Called again it replaces what was there.
func (s *Server) Publish(r *Repo, name string) string {
	s.t.Helper()
	bare := filepath.Join(s.root, name)
	if err := os.RemoveAll(bare); err != nil {
		s.t.Fatal(err)
	}
	r.Git("clone", "-q", "--mirror", "--no-hardlinks", r.Dir, bare)
	r.Git("--git-dir="+bare, "symbolic-ref", "HEAD", r.Git("symbolic-ref", "HEAD"))
	r.Git("--git-dir="+bare, "update-server-info")
	return s.URL + "/" + name
}

// Config sets a configuration of a published repository.
func (s *Server) Config(name, key, value string) {
	s.t.Helper()
	(&Repo{s.t, s.root}).Git("--git-dir="+filepath.Join(s.root, name), "config", key, value)
}

// Require has the server refuse requests without this Authorization header.
func (s *Server) Require(header string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user = header
}

// OldProtocol has the server speak the first version of git's protocol only.
func (s *Server) OldProtocol() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old = true
}

// Requests returns how many requests there were.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}
