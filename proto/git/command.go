package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// settings is the whole configuration that git has, besides that of a repository of ours.
var settings = [][2]string{
	{"advice.detachedHead", "false"},
	{"checkout.workers", "0"}, // as many as there are processors
	{"core.fsmonitor", "false"},
	{"core.hooksPath", "/dev/null"},
	{"core.logAllRefUpdates", "false"},
	{"core.protectNTFS", "true"},
	{"credential.helper", ""},
	{"fetch.recurseSubmodules", "false"},
	{"fetch.unpackLimit", "1"}, // a file for each fetch, not one for each object
	{"gc.auto", "0"},
	{"init.defaultBranch", "master"},
	{"init.templateDir", ""},
	{"maintenance.auto", "false"},
	{"submodule.recurse", "false"},
	{"uploadpack.allowAnySHA1InWant", "true"}, // of a mirror, for a kept .git directory
}

// proxies are what git and curl take from the environment of the daemon.
var proxies = []string{
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
}

// A command is one call of git.
type command struct {
	args   []string
	gitDir string // --git-dir
	tree   string // --work-tree
	index  string // the index file, if not the repository's
	stdin  io.Reader
	stdout io.Writer // nil collects it
	files  bool      // the protocol is that of local files: a fetch from a mirror of ours
	access *access   // how the remote is reached; nil if it is not
	quiet  bool      // what it says is no news for the user
	late   bool      // what it says is told when it has succeeded: a failure may be one that is expected
}

// An Error is a git command that failed.
type Error struct {
	Command string // "fetch"
	Stderr  string // the last of what it said
	Err     error
}

// Error is what git said, which names the cause better than its exit status.
func (e *Error) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("git %s: %v", e.Command, e.Err)
	}
	return fmt.Sprintf("git %s: %s", e.Command, e.Stderr)
}

// Unwrap returns the error of the process.
func (e *Error) Unwrap() error { return e.Err }

// said says whether err is git's and has one of the texts in its output.
func said(err error, texts ...string) bool {
	var e *Error
	return errors.As(err, &e) && slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(e.Stderr, t) })
}

// Denied says whether err is a server's that wants other credentials than it got, or any.
func Denied(err error) bool {
	return said(err, "could not read Username", "could not read Password", "Authentication failed", "returned error: 403")
}

// maxStderr is how much of what git says an error has, in bytes: of the end.
const maxStderr = 4 << 10

// run performs a command and returns its standard output, if cmd does not send it elsewhere. When ctx ends, git and all
// that it has started end.
func (c *Client) run(ctx context.Context, cmd *command) ([]byte, error) {
	program, err := c.program()
	if err != nil {
		return nil, err
	}
	argv := append(slices.Clone(c.wrap), program)
	if cmd.gitDir != "" {
		argv = append(argv, "--git-dir="+cmd.gitDir)
	}
	if cmd.tree != "" {
		argv = append(argv, "--work-tree="+cmd.tree)
	}
	argv = append(argv, cmd.args...)
	x := exec.CommandContext(ctx, argv[0], argv[1:]...)
	x.Dir = c.opt.Dir
	if cmd.tree != "" {
		x.Dir = cmd.tree
	}
	x.Env = cmd.environment()
	x.Stdin = cmd.stdin
	var out bytes.Buffer
	x.Stdout = &out
	if cmd.stdout != nil {
		x.Stdout = cmd.stdout
	}
	stderr := &tail{log: loggerOf(ctx)}
	if cmd.quiet || cmd.late {
		stderr.log = nil
	}
	x.Stderr = stderr
	// Helpers (git-remote-https, ssh, index-pack) are its children and do not notice that it has gone.
	x.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	x.Cancel = func() error { return syscall.Kill(-x.Process.Pid, syscall.SIGTERM) }
	x.WaitDelay = 10 * time.Second
	err = x.Run()
	if ctx.Err() != nil {
		if x.Process != nil {
			_ = syscall.Kill(-x.Process.Pid, syscall.SIGKILL) // whoever ignored the first signal; most often nobody is left
		}
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return out.Bytes(), &Error{Command: cmd.args[0], Stderr: stderr.text(), Err: err}
	}
	if log := loggerOf(ctx); cmd.late && log != nil {
		log(stderr.buf)
	}
	return out.Bytes(), nil
}

// environment returns all that git sees of the daemon's environment.
func (cmd *command) environment() []string {
	protocols := "http:https:ssh:git"
	if cmd.files {
		protocols = "file"
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/dev/null", "LC_ALL=C", "TZ=UTC",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_ASKPASS=", "SSH_ASKPASS=", "GIT_ALLOW_PROTOCOL=" + protocols, "GIT_PROTOCOL_FROM_USER=0",
		"GIT_LITERAL_PATHSPECS=1", "GIT_OPTIONAL_LOCKS=0", "GIT_CEILING_DIRECTORIES=/", "GIT_FLUSH=0",
	}
	if cmd.index != "" {
		env = append(env, "GIT_INDEX_FILE="+cmd.index)
	}
	for _, name := range proxies {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	all := settings
	if a := cmd.access; a != nil {
		env = append(env, a.env...)
		all = append(slices.Clone(all), a.settings...)
	}
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(all)))
	for i, s := range all {
		n := strconv.Itoa(i)
		env = append(env, "GIT_CONFIG_KEY_"+n+"="+s[0], "GIT_CONFIG_VALUE_"+n+"="+s[1])
	}
	return env
}

// An access is what git needs to reach a remote.
type access struct {
	url      string // without credentials
	env      []string
	settings [][2]string
	header   string
	close    func()
}

// open prepares the access to r. Its close is called when no command uses it any more.
func (c *Client) open(r *Remote) (*access, error) {
	a, err := parseRemote(r.URL)
	if err != nil {
		return nil, err
	}
	acc := &access{url: a.url, close: func() {}, header: r.header(a)}
	if acc.header != "" {
		if strings.ContainsAny(acc.header, "\r\n\x00") {
			return nil, fmt.Errorf("the Authorization header for %s has more than one line", a.url)
		}
		acc.settings = [][2]string{{"http." + scope(a.url) + ".extraHeader", "Authorization: " + acc.header}}
	}
	if a.scheme != schemeSSH {
		return acc, nil
	}
	if _, err := exec.LookPath("ssh"); err != nil {
		return nil, fmt.Errorf("reaching %s: the \"ssh\" program is not installed (package \"openssh-client\" of most distributions)", a.url)
	}
	// Neither files nor keys of the daemon's own user play a part.
	ssh := "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o GlobalKnownHostsFile=/dev/null"
	if r.KnownHosts == "" {
		ssh += " -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR"
	} else {
		f, err := os.CreateTemp(c.scratch(), "known-hosts-")
		if err != nil {
			return nil, fmt.Errorf("writing the known hosts: %w", err)
		}
		acc.close = func() { _ = os.Remove(f.Name()) }
		_, err = f.WriteString(r.KnownHosts)
		if err = errors.Join(err, f.Close()); err != nil {
			acc.close()
			return nil, fmt.Errorf("writing the known hosts: %w", err)
		}
		ssh += " -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + shellQuote(filepath.ToSlash(f.Name()))
	}
	if r.AgentSocket == "" {
		ssh += " -o IdentityAgent=none"
	} else {
		acc.env = append(acc.env, "SSH_AUTH_SOCK="+r.AgentSocket)
	}
	acc.env = append(acc.env, "GIT_SSH_COMMAND="+ssh, "GIT_SSH_VARIANT=ssh")
	return acc, nil
}

// shellQuote returns s as one word of a shell, in which a blank means nothing to ssh either.
func shellQuote(s string) string {
	return `'` + strings.ReplaceAll(`"`+s+`"`, `'`, `'\''`) + `'`
}

// tail keeps the end of what is written to it, and passes all of it on.
type tail struct {
	log Logger
	buf []byte
}

// Write implements io.Writer. It never fails.
func (t *tail) Write(p []byte) (int, error) {
	if t.log != nil {
		t.log(p)
	}
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - maxStderr; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

// text returns what there is, without what only a terminal needs.
func (t *tail) text() string {
	var lines []string
	for line := range strings.SplitSeq(string(t.buf), "\n") {
		line = strings.TrimRight(line, "\r") // ssh has one at the end of each
		if i := strings.LastIndexByte(line, '\r'); i >= 0 {
			line = line[i+1:]
		}
		if line = strings.TrimRight(line, " "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// exit returns the exit status of the process; -1 if it was not one that ended by itself.
func (e *Error) exit() int {
	var x *exec.ExitError
	if errors.As(e.Err, &x) {
		return x.ExitCode()
	}
	return -1
}
