package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// base imports base images under their usual names: base busybox debian.
func base(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: base busybox|debian...")
	}
	for _, name := range args {
		var err error
		switch name {
		case "busybox":
			err = ts.Exec("boxbuild", "import", "-c", `CMD ["sh"]`, filepath.Join(ts.Getenv("BASES"), "busybox.tar"), "busybox:latest")
		case "debian":
			err = ts.Exec("boxbuild", "import", "-c", `CMD ["bash"]`, filepath.Join(ts.Getenv("BASES"), "debian-bookworm.tar"), "debian:bookworm")
		default:
			err = fmt.Errorf("no base image %s", name)
		}
		ts.Check(err)
	}
}

// code runs a command and checks its exit code: code 2 boxbuild build.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: code n command [args]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("running %v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("%v: exit code %d, want %s", args[1:], got, args[0])
	}
}

// await runs a shell command until it succeeds: await 'test -e file'.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: await command")
	}
	for {
		cmd := exec.Command("sh", "-c", args[0])
		cmd.Dir = ts.Getenv("WORK")
		cmd.Env = os.Environ()
		for _, name := range []string{"BOXBUILD_ROOT", "ROOT2", "OPEN", "PATH", "HOME", "SLEEP"} {
			cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
		}
		if cmd.Run() == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// count checks how many lines of files match: count 1 'pattern' file...
func count(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 || neg {
		ts.Fatalf("usage: count n pattern file...")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	var got []string
	for _, name := range args[2:] {
		for line := range strings.Lines(ts.ReadFile(name)) {
			if re.MatchString(line) {
				got = append(got, line)
			}
		}
	}
	if fmt.Sprint(len(got)) != args[0] {
		ts.Fatalf("%d lines match %q, want %s:\n%s", len(got), args[1], args[0], strings.Join(got, ""))
	}
}

// term ends the daemon of a root in the middle of a script: term $BOXBUILD_ROOT.
func term(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: term root")
	}
	ts.Check(finish(args[0]))
}
