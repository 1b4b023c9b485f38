package main

import (
	"bytes"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// option is a line of help that begins a flag.
var option = regexp.MustCompile(`^ +(?:-(\w), |    )--([a-z0-9-]+)(?: [a-zA-Z]\S*)?(?:   +(.*))?$`)

// byDefault is what a help says of a default, which depends on how the flag is implemented.
var byDefault = regexp.MustCompile(`\(default[^)]*\)`)

// options returns the flags of a help text: the shorthand and the description, without blanks, since docker breaks lines.
func options(help string) map[string]string {
	out := map[string]string{}
	last := ""
	for line := range strings.Lines(help) {
		line = strings.TrimSuffix(line, "\n")
		text := line
		if m := option.FindStringSubmatch(line); m != nil {
			last, text = m[2], m[1]+"|"+m[3]
		} else if last == "" || !strings.HasPrefix(line, "      ") {
			last = ""
			continue
		}
		out[last] += strings.ReplaceAll(text, " ", "")
	}
	for name, text := range out {
		out[name] = strings.ReplaceAll(byDefault.ReplaceAllString(text, ""), "symbollink", "symlinks")
	}
	return out
}

// newer are flags and texts that docker's client has had since the version on PATH, or has no more.
var newer = map[string]string{
	"create umask": "new", "run umask": "new", "commit no-pause": "new", "commit pause": "hidden now",
	"create pull": "was misspelt", "update memory-swap": "has quotes as elsewhere",
	"restart timeout": "was time", "stop timeout": "was time", "search limit": "a default", "start checkpoint": "", "start checkpoint-dir": "",
}

// TestHelpIsDockers checks that the commands for containers and volumes have docker's flags with docker's words.
func TestHelpIsDockers(t *testing.T) {
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("docker is not on PATH")
	}
	for _, command := range []string{
		"attach", "commit", "cp", "create", "diff", "events", "exec", "export", "kill", "logs", "pause", "port", "ps", "rename", "restart",
		"rm", "run", "search", "start", "stats", "stop", "top", "unpause", "update", "wait", "container ls", "container inspect",
		"container prune", "volume create", "volume inspect", "volume ls", "volume prune", "volume rm",
	} {
		words := append(strings.Fields(command), "--help")
		theirs, err := exec.Command("docker", words...).Output()
		if err != nil {
			t.Fatalf("docker %s: %v", command, err)
		}
		var out bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &out, env: config.Env{Lookup: func(string) (string, bool) { return "", false }}}
		if code := a.run(t.Context(), words); code != 0 {
			t.Fatalf("%s: exit code %d: %s", command, code, out.String())
		}
		got, want := options(out.String()), options(string(theirs))
		var names []string
		for n := range got {
			names = append(names, n)
		}
		for n := range want {
			if _, ok := got[n]; !ok {
				names = append(names, n)
			}
		}
		slices.Sort(names)
		cmd, _, err := a.root().Find(strings.Fields(command))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			_, known := newer[command+" "+n]
			if f := cmd.Flags().Lookup(n); f != nil && (f.Hidden || f.Deprecated != "") {
				known = true // it is refused by its name, or of no use
			}
			if !known && n != "help" && got[n] != want[n] {
				t.Errorf("%s --%s: got %q, docker has %q", command, n, got[n], want[n])
			}
		}
		first := func(s string) string {
			_, rest, _ := strings.Cut(s, "\n\n")
			line, _, _ := strings.Cut(rest, "\n")
			return line
		}
		if g, w := first(out.String()), first(string(theirs)); g != w {
			t.Errorf("%s: it is described as %q, docker says %q", command, g, w)
		}
	}
}
