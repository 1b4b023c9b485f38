package dockerfile

import (
	"errors"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
)

// TestSuggest checks what is taken for a misspelling of what.
func TestSuggest(t *testing.T) {
	options := []string{"add", "arg", "env", "run", "user", "workdir"}
	for word, want := range map[string]string{
		"rnu": "run", // letters swapped go before letters replaced
		"nev": "env", "usr": "user", "workdirs": "workdir", "wrkdr": "workdir", "run": "", "something": "", "": "",
	} {
		if got := suggest(word, options); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

// TestDidYouMean checks that a misspelt word of each kind is pointed out, always in the same way.
func TestDidYouMean(t *testing.T) {
	for text, want := range map[string]string{
		"FROM busybox\nRNU x\n":                                             "unknown instruction: RNU (did you mean RUN?)",
		"FROM busybox\nrnu x\n":                                             "unknown instruction: rnu (did you mean run?)",
		"FROM busybox\nRnu x\n":                                             "unknown instruction: Rnu (did you mean run?)",
		"FROM busybox\nNONSENSE x\n":                                        "unknown instruction: NONSENSE",
		"FROM busybox AS a\nONBUILD WORKDRI /\nFROM a\n":                    "unknown instruction: WORKDRI (did you mean WORKDIR?)",
		"FROM busybox\nCOPY --form=a b c\n":                                 "unknown flag: --form (did you mean from?)",
		"FROM busybox\nRUN --mount=type=bnid,target=/a x\n":                 `unsupported mount type "bnid" (did you mean bind?)`,
		"FROM busybox\nRUN --mount=type=cache,tagret=/a x\n":                "unexpected key 'tagret' in 'tagret=/a' (did you mean target?)",
		"FROM busybox\nRUN --mount=type=cache,target=/a,sharing=lokced x\n": `unsupported sharing value "lokced" (did you mean locked?)`,
		"FROM busybox AS builder\nFROM scratch\nCOPY --from=bulider /a /\n": "(did you mean builder?)",
		"FROM busybox AS builder\nFROM bulider\n":                           "(did you mean builder?)",
		"FROM busybox\nCOPY --from=asstes /a /\n":                           "(did you mean assets?)",
		"FROM Assets\n": "(did you mean assets?)", "FROM busybox\nCOPY --from=ASSETS /a /\n": "(did you mean assets?)",
		"FROM busybox\nCOPY --from=SomethingElse /a /\n": "must be lowercase",
		"FROM alpin\n": "(did you mean alpine?)",
		"FROM busybox AS base\nFROM base AS two\n": `target stage "0" could not be found`, // which --target=0 is not
		"FROM busybox\nFROM scratch\n":             `target stage "0" could not be found`,
		"FROM busybox AS target1\n":                `target stage "targte1" could not be found (did you mean target1?)`,
	} {
		c := dockerfileCase(t, text)
		c.env.images = map[string]string{"docker.io/library/busybox:latest": anyImage}
		c.req.Contexts["assets"] = "local:assets"
		if strings.Contains(text, "target1") {
			c.req.Target = "targte1"
		}
		if strings.Contains(want, `"0"`) {
			c.req.Target = "0"
		}
		_, err := c.translate()
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q:\ngot  %v\nwant %s", text, err, want)
			continue
		}
		var se *frontend.SourceError
		if c.req.Target == "" && (!errors.As(err, &se) || len(se.Ranges) == 0) {
			t.Errorf("%q: the error has no place", text)
		}
	}
}

// TestUnusedArgs checks which build arguments are said to be unused: not those that an ARG anywhere declares, or a trigger
// of the base, or that mean something by themselves.
func TestUnusedArgs(t *testing.T) {
	const file = "ARG GLOBAL\nFROM onbuild AS a\nARG DECLARED\nFROM scratch\nARG OTHER=1 LAST\n"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"GLOBAL", "DECLARED", "OTHER", "LAST", "TARGETARCH", "HTTP_PROXY", "no_proxy", "BUILDKIT_INLINE_CACHE"}, ""},
		{[]string{"SOURCE_DATE_EPOCH"}, ""},
		{[]string{"NOBODY"}, "[Warning] One or more build-args [NOBODY] were not consumed"},
		{[]string{"DECLARD", "NOBODY"}, "[Warning] One or more build-args [DECLARD NOBODY] were not consumed (did you mean DECLARED instead of DECLARD?)"},
		{[]string{"TRIGGERED"}, ""},
	} {
		tc := dockerfileCase(t, file)
		tc.req.Target = "a"
		tc.env.images["docker.io/library/onbuild:latest"] = strings.Replace(anyImage, `"Env"`, `"OnBuild":["ARG TRIGGERED"],"Env"`, 1)
		for _, a := range c.args {
			tc.req.BuildArgs[a] = "1"
		}
		if _, err := tc.translate(); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, w := range tc.env.warnings {
			got += w.Short
		}
		if got != c.want {
			t.Errorf("%v:\ngot  %s\nwant %s", c.args, got, c.want)
		}
	}
}
