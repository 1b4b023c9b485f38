package images

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
)

// Changes are read as a Dockerfile is: quotes go, variables are those of the config, and of the changes before. The wants are
// docker's.
func TestChanges(t *testing.T) {
	type changes []string
	for _, tt := range []struct {
		changes changes
		field   func(c *frontend.ImageConfig) any
		want    string
	}{
		{changes{`LABEL d="hello world" "k 2"=v`}, labels, `{"d":"hello world","k 2":"v"}`},
		{changes{`ENV Y="2 3"`}, env, `["PATH=/bin","K=V","Y=2 3"]`},
		{changes{`ENV Y=2\ 3`}, env, `["PATH=/bin","K=V","Y=2 3"]`},
		{changes{`ENV PATH=/x:$PATH`}, env, `["PATH=/x:/bin","K=V"]`},
		{changes{`ENV A=${K:-d} B=${NO:-d}`}, env, `["PATH=/bin","K=V","A=V","B=d"]`},
		{changes{`ENV A=1`, `ENV B=$A`, `WORKDIR /$B`}, env, `["PATH=/bin","K=V","A=1","B=1"]`},
		{changes{`ENV A=1`, `ENV B=$A`, `WORKDIR /$B`}, workdir, `"/1"`},
		{changes{"ENV A=1 \\", "B=2\nUSER $A"}, env, `["PATH=/bin","K=V","A=1","B=2"]`},
		{changes{`WORKDIR "/a b"`}, workdir, `"/a b"`},
		{changes{`WORKDIR /x/${K}`, `WORKDIR y`}, workdir, `"/x/V/y"`},
		{changes{`USER "a b"`}, user, `"a b"`},
		{changes{`USER $K`}, user, `"V"`},
		{changes{`VOLUME "/q"`}, volumes, `{"/q":{}}`},
		{changes{`VOLUME ["/$K"]`}, volumes, `{"/V":{}}`},
		{changes{`ENV P="80 443"`, `EXPOSE $P 53/udp`}, ports, `{"443/tcp":{},"53/udp":{},"80/tcp":{}}`},
		{changes{`CMD echo $K "x"`}, command, `[["/bin/sh","-c","echo $K \"x\""],["run"]]`},
		{changes{`CMD`}, command, `[["/bin/sh","-c"],["run"]]`},
		{changes{`CMD []`}, command, `[[],["run"]]`},
		{changes{`ENTRYPOINT ["echo","E"]`}, command, `[null,["echo","E"]]`}, // the command went with the other
		{changes{`CMD ["a"]`, `ENTRYPOINT ["echo"]`}, command, `[["a"],["echo"]]`},
		{changes{`CMD`, `ENTRYPOINT ["echo"]`}, command, `[null,["echo"]]`},
		{changes{`ENTRYPOINT echo`, `CMD a`}, command, `[["/bin/sh","-c","a"],["/bin/sh","-c","echo"]]`},
		{changes{`ENV S=KILL`, `STOPSIGNAL SIG$S`}, func(c *frontend.ImageConfig) any { return c.Config.StopSignal }, `"SIGKILL"`},
		{changes{`ONBUILD RUN echo "$K"`}, func(c *frontend.ImageConfig) any { return c.Config.OnBuild }, `["RUN echo \"$K\""]`},
		{nil, env, `["PATH=/bin","K=V"]`},
	} {
		c := changed()
		before := slices.Clone(c.Config.Env)
		shared := c.Config.Env
		if err := applyChanges(c, tt.changes); err != nil {
			t.Errorf("%q: %v", tt.changes, err)
			continue
		}
		got, err := json.Marshal(tt.field(c))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != tt.want {
			t.Errorf("%q: got %s, want %s", tt.changes, got, tt.want)
		}
		if !slices.Equal(shared, before) {
			t.Errorf("%q: what the config shared with others has become %q", tt.changes, shared)
		}
	}
}

// What is no change is refused in docker's words, and so is what no container of the image could be run with.
func TestChangesRefused(t *testing.T) {
	for change, want := range map[string]string{
		"FROM x":              "FROM is not a valid change command",
		"RUN true":            "RUN is not a valid change command",
		`SHELL ["/bin/sh"]`:   "SHELL is not a valid change command",
		"nonsense":            "nonsense is not a valid change command",
		"":                    "file with no instructions",
		"STOPSIGNAL FOO":      "invalid signal: FOO",
		"STOPSIGNAL $NO":      "invalid signal: ",
		`VOLUME [""]`:         "VOLUME specified can not be an empty string",
		"WORKDIR $NO":         "WORKDIR is given an empty path",
		"EXPOSE x":            "x",
		"ENV A=${K:?}${NO:?}": "NO",
	} {
		if err := applyChanges(changed(), []string{change}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", change, err, want)
		}
	}
}

// changed is a config to be changed.
func changed() *frontend.ImageConfig {
	c := new(frontend.ImageConfig)
	c.Config.Env = []string{"PATH=/bin", "K=V"}
	c.Config.Cmd, c.Config.Entrypoint = []string{"old"}, []string{"run"}
	return c
}

func env(c *frontend.ImageConfig) any     { return c.Config.Env }
func labels(c *frontend.ImageConfig) any  { return c.Config.Labels }
func workdir(c *frontend.ImageConfig) any { return c.Config.WorkingDir }
func user(c *frontend.ImageConfig) any    { return c.Config.User }
func volumes(c *frontend.ImageConfig) any { return c.Config.Volumes }
func ports(c *frontend.ImageConfig) any   { return c.Config.ExposedPorts }
func command(c *frontend.ImageConfig) any { return [][]string{c.Config.Cmd, c.Config.Entrypoint} }
