package dockerfile

import (
	"fmt"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/report"
)

// hostile are Dockerfiles that ask for much more memory than they have bytes. Each has a reason to be refused, or is
// small after all.
func hostile() map[string]string {
	rep := strings.Repeat
	doubling := "FROM busybox\nENV A=aaaaaaaaaaaaaaaa\n" + rep("ENV A=$A$A$A$A\n", 30)
	chain := "FROM busybox AS s0\n"
	var env strings.Builder
	for i := range 4_900 {
		chain += fmt.Sprintf("FROM s%d AS s%d\nENV A=b\n", i, i+1)
		fmt.Fprintf(&env, "ENV V%d=x\n", i)
	}
	return map[string]string{
		"words-on-lines":     "FROM busybox\nADD " + rep("a \\\n", 90_000) + "b\n",
		"args-on-lines":      "FROM busybox\nARG " + rep("a \\\n", 90_000) + "b\nRUN x\n",
		"args-differ":        "FROM busybox\nARG " + lines("a%d=b \\\n", 45_000) + "b\nRUN x\nRUN y\n",
		"env-on-lines":       "FROM busybox\nENV " + lines("a%d=b \\\n", 45_000) + "b=c\nRUN x\nENV a1=c\nRUN y\n",
		"labels-on-lines":    "FROM busybox\nLABEL " + lines("a%d=b \\\n", 45_000) + "b=c\n",
		"volumes-on-lines":   "FROM busybox\nVOLUME " + lines("/a%d \\\n", 45_000) + "b\n",
		"mounts-on-lines":    "FROM busybox\nRUN " + rep("--mount=target=/a \\\n", 45_000) + "x\n",
		"global-args":        "ARG " + lines("a%d=b \\\n", 45_000) + "b\nFROM busybox\n",
		"global-arg-lines":   lines("ARG a%d=b\n", 9_900) + "FROM busybox\n",
		"heredoc-names":      "FROM busybox\nRUN " + rep("<<a \\\n", 20_000) + "x\n" + rep("a\n", 20_000),
		"nested-on-lines":    "FROM busybox\nENV A=" + rep("${a:-\\\n", 90_000) + "\n",
		"instructions":       "FROM busybox\n" + rep("USER a\n", 9_900),
		"words":              "FROM busybox\nADD " + rep("a ", 140_000) + "b\n",
		"sources":            "FROM busybox\n" + rep("COPY "+rep("a ", 1000)+"b/\n", 98),
		"runs":               "FROM busybox\n" + rep("RUN x\n", 9_900),
		"runs-with-env":      "FROM busybox\n" + env.String() + rep("RUN x\n", 4_900),
		"env-between-runs":   "FROM busybox\n" + strings.ReplaceAll(env.String(), "\n", "\nRUN x\n"),
		"json":               "FROM busybox\nRUN [" + rep(`"",`, 140_000) + "\"\"]\n",
		"json-nested":        "FROM busybox\nRUN " + rep("[", 500_000) + "\n",
		"labels":             "FROM busybox\nLABEL " + rep("a=b ", 140_000) + "\n",
		"args":               "FROM busybox\nARG " + rep("a ", 140_000) + "\n",
		"expose":             "FROM busybox\n" + rep("EXPOSE 0-65535\n", 3000),
		"comments":           rep("#\n", 620_000) + "FROM busybox\n",
		"comments-most":      rep("#x\n", 560_000) + "FROM busybox\nRUN x\n",
		"comments-each":      rep(rep("#x\n", 100)+"USER x\n", 4_900) + "FROM busybox\n",
		"comments-inside":    "FROM busybox\nRUN x \\\n" + rep("#x\n", 1_350_000) + "y\n",
		"empty-inside":       "FROM busybox\nRUN x \\\n" + rep("\n", 4_000_000) + "y\n",
		"empty-lines":        rep("\n", 4_000_000) + "FROM busybox\n",
		"document-run":       "FROM busybox\nRUN <<E\n" + rep(rep("x", 60_000)+"\n", 69) + "E\n",
		"document-script":    "FROM busybox\nRUN <<E\n#!/bin/x\n" + rep(rep("x", 60_000)+"\n", 69) + "E\n",
		"document-shell":     "FROM busybox\nRUN cat <<E && cat <<F\n" + rep(rep("x", 60_000)+"\n", 35) + "E\n" + rep(rep("y", 60_000)+"\n", 34) + "F\n",
		"document-copy":      "FROM busybox\nCOPY <<E /x\n" + rep(rep("x", 60_000)+"\n", 69) + "E\n",
		"document-chomped":   "FROM busybox\nCOPY <<-E /x\n" + rep("\t"+rep("x", 60_000)+"\n", 69) + "E\n",
		"document-words":     "FROM busybox\nCOPY <<E /x\n" + rep(rep("x ", 30_000)+"\n", 19) + "E\n",
		"document-lines":     "FROM busybox\nCOPY <<E /x\n" + rep("\n", 4_100_000) + "E\n",
		"document-tabs":      "FROM busybox\nRUN <<-E\n" + rep("\tx\n", 830_000) + "E\n",
		"documents-many":     "FROM busybox\n" + rep("RUN <<E\n"+rep("x\n", 100)+"E\n", 9_000),
		"document-and-words": "FROM busybox\n" + rep("LABEL "+rep("a=b ", 100)+"\n", 180) + "RUN <<E\n" + rep(rep("x", 60_000)+"\n", 60) + "E\n",
		"document-false":     "FROM busybox\nENV A=<<E\n" + rep("LABEL "+rep("a=b ", 100)+"\n", 9_000) + "E\n",
		"document-onbuild":   "FROM busybox AS a\nONBUILD RUN <<E\n" + rep(rep("x", 60_000)+"\n", 60) + "E\nFROM a\n",
		"document-error":     "FROM busybox\nRUN <<E\n" + rep(rep("x", 60_000)+"\n", 69) + "E\nCOPY --from=no\n",
		"words-most":         "FROM busybox\n" + rep("ADD "+rep("a ", 950)+"b\n", 100),
		"syntax-json":        `{"a":[` + rep("[],", 1_350_000) + "[]]}",
		"syntax-json-deep":   rep(`{"":`, 9_000) + "1" + rep("}", 9_000),
		"syntax-json-maps":   `{"a":[` + rep(`{"":1},`, 550_000) + "1]}",
		"doubling":           doubling,
		"doubling-in-a-word": strings.Replace(doubling, "30", "8", 1) + "ENV B=" + rep("$A", 200_000) + "\n",
		"default":            "FROM busybox\nENV A=" + rep("${a:-", 99) + rep("}", 99) + "\n",
		"nested":             "FROM busybox\nENV A=" + rep("${a:-", 100_000) + rep("}", 100_000) + "\n",
		"nested-heredoc":     "FROM busybox\nRUN <<EOF " + rep("${a:-", 100_000) + "\nEOF\n",
		"replace":            "FROM busybox\nENV A=" + rep("a", 60_000) + "\nENV B=${A//a/$A}\n",
		"replace-nested":     "FROM busybox\nENV A=" + rep("a", 250) + "\nENV B=${A//a/${A//a/${A//a/$A}}}\n",
		"replace-literal":    "FROM busybox\nENV A=" + rep("a", 30_000) + "\nENV B=${A//a/" + rep("b", 30_000) + "}\n",
		"pattern":            "FROM busybox\nENV A=a\nENV B=${A#" + rep("*", 50_000) + "}\n",
		"replace-quoted":     "FROM busybox\nENV A=" + rep("a", 60_000) + "\nENV B=${A//'}'/" + rep("b", 60_000) + "}${A//a/" + rep("b", 100) + "}\n",
		"match":              "FROM busybox\nENV A=" + rep("a", 60_000) + "\nENV " + rep("B=${A##?*?*?*?*?*?*?*?*b} \\\n", 30_000) + "C=d\n",
		"match-in-names":     "FROM busybox\nENV A=" + rep("a", 60_000) + "\n" + rep("RUN echo ${A##?*?*?*?*?*?*?*?*b}\n", 9_000),
		"secrets-on-lines":   "FROM busybox\nARG " + lines("a%d_key=b \\\n", 45_000) + "b\n",
		"undefined-on-lines": "FROM busybox\nENV " + lines("a%d=$a%[1]dx \\\n", 45_000) + "b=c\nENV C=" + lines("$x%d\\\n", 45_000) + "\n",
		"undefined-in-from":  lines("ARG a%d=b\n", 4_900) + lines("FROM busybox$b%d\n", 4_900),
		"legacy":             "FROM busybox\n" + lines("ENV a%d b\n", 9_900),
		"heredocs":           "FROM busybox\nCOPY " + rep("<<a ", 5000) + "/d/\n" + rep("x\na\n", 5000),
		"heredoc-long":       "FROM busybox\nRUN <<EOF\n" + rep("echo $A $B ${C}\n", 45_000) + "EOF\n",
		"stages":             chain,
		"platform-args":      "FROM busybox\n" + rep("ARG TARGETARCH\nRUN x\n", 4_900),
		"onbuild":            "FROM busybox AS a\n" + rep("ONBUILD RUN x\n", 9_900) + "FROM a\nFROM a\n",
		"cycle":              "FROM busybox AS a\n" + rep("COPY --from=a a a\n", 9_900),
		"mounts":             "FROM busybox\nRUN " + rep("--mount=target=/a ", 60_000) + "x\n",
		"huge":               "FROM busybox\n" + rep("x", 8<<20),
		"huge-lines":         "FROM busybox\n" + rep("RUN x\n", 8<<20/6),
		"stages-many":        lines("FROM busybox AS s%d\n", 100_000),
		"stages-most":        lines("FROM busybox AS s%d\n", 9_900),
		"heredoc-million":    "FROM busybox\nRUN <<EOF\n" + rep("a\n", 1_000_000) + "EOF\n",
		"heredoc-lines":      "FROM busybox\nRUN <<EOF\n" + rep("\n", 1<<20-100) + "EOF\n",
		"heredoc-most":       "FROM busybox\nRUN <<EOF\n" + rep("\n", 299_000) + "EOF\n",
		"heredoc-copy":       "FROM busybox\nCOPY <<EOF /x\n" + rep("\n", 299_000) + "EOF\n",
		"heredoc-expand":     "FROM busybox\nENV A=" + rep("a", 60_000) + "\nCOPY <<EOF /x\n" + rep("$A\n", 300_000) + "EOF\n",
		"laughs-env":         "FROM busybox\nENV A0=ha\n" + laughs("ENV A%d=", "$A%d"),
		"laughs-arg":         "FROM busybox\nARG A0=ha\n" + laughs("ARG A%d=", "${A%d}"),
		"laughs-global":      "ARG A0=ha\n" + laughs("ARG A%d=", "$A%d") + "FROM busybox:$A30\n",
		"laughs-label":       "FROM busybox\nENV A0=ha\n" + laughs("ENV A%d=", "$A%d") + "LABEL " + rep("a=$A30 ", 1000) + "\n",
		"laughs-default":     "FROM busybox\nARG A0=ha\n" + laughs("ARG A%d=", "${U:-$A%d}"),
		"laughs-stages":      "ARG A=" + rep("a", 100_000) + "\n" + lines("FROM busybox AS s%d\nARG A\nENV B=$A$A C%[1]d=$A\n", 3_000),
		"expose-many":        "FROM busybox\nEXPOSE " + rep("0-65535 ", 40_000) + "\n",
		"expose-var":         "FROM busybox\nARG P=\"" + rep("1-65535 ", 10_000) + "\"\n" + rep("EXPOSE $P\n", 1_000),
		"light-comments":     rep("#"+rep("x", 60_000)+"\n", 170) + "FROM busybox\nRUN x\n",
		"light-inside":       "FROM busybox\nRUN x \\\n" + rep("#"+rep("x", 98)+"\n", 65_000) + "y\n",
		"light-copy":         "FROM busybox\nCOPY <<'E' /x\n" + rep(rep("x", 60_000)+"\n", 170) + "E\n",
		"light-expanded":     "FROM busybox\nCOPY <<E /x\n" + rep(rep("x", 60_000)+"$A\n", 170) + "E\n",
		"light-script":       "FROM busybox\nRUN <<E\n#!/bin/x\n" + rep(rep("x", 60_000)+"\n", 170) + "E\n",
		"light-chomped":      "FROM busybox\nRUN <<-E\n#!/bin/x\n" + rep("\t"+rep("x", 60_000)+"\n", 110) + "E\n",
		"light-copies":       "FROM busybox\n" + rep("COPY <<'E' /x\n"+rep(rep("x", 60_000)+"\n", 10)+"E\n", 17),
		"light-and-more":     rep("#"+rep("x", 60_000)+"\n", 150) + "FROM busybox\nENV A=" + rep("a", 60_000) + "\nCOPY <<EOF /x\n" + rep("$A\n", 300) + "EOF\n",
		"light-and-words":    rep("#"+rep("x", 60_000)+"\n", 100) + "FROM busybox\n" + rep("LABEL "+rep("a=b ", 100)+"\n", 100),
		"light-error":        "FROM busybox\nCOPY <<'E' /x\n" + rep(rep("x", 60_000)+"\n", 170) + "E\nCOPY --from=no\n",
		"light-too-much":     rep("#"+rep("x", 60_000)+"\n", 190) + "FROM busybox\nRUN x\n",
		"light-json-string":  `{"a":"` + rep("x", 11<<20) + `"}`,
		"long-names":         "FROM busybox\n" + rep("LABEL a=$"+rep("b", 1_000)+"\n", 1_000),
	}
}

// TestFindPatterns checks that what multiplies is seen, however it is hidden, and what does not is let alone.
func TestFindPatterns(t *testing.T) {
	for word, want := range map[string]patterns{
		"plain":               {},
		"$A${B}":              {},
		"${A:-/x/y}":          {},
		"${A:-${B}/x#%}":      {},
		"${A#b}":              {longest: 6, nested: 1},
		"${A%b}:$B":           {longest: 6, nested: 1},
		"${A//b/c}${AAA/b/c}": {longest: 10, nested: 1},
		"${A//b/$C}":          {longest: 10, nested: 1, vars: true},
		"${A:-${B//x/y}}":     {longest: 9, nested: 1},
		"${A//x/${B//x/y}}":   {longest: 17, nested: 2, vars: true},
		"${A//'}'/y}$B":       {longest: 13, nested: 1, vars: true},
		`${A//\}/y}`:          {longest: 10, nested: 1},
		"${@#b}":              {longest: 6, nested: 1},
		"${A#":                {longest: 4, nested: 1},
		"}${":                 {},
	} {
		if got := findPatterns(word); got != want {
			t.Errorf("%q: got %+v, want %+v", word, got, want)
		}
	}
}

// lines returns n lines that differ by their number.
func lines(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// laughs returns 40 lines of which each has the one before ten times: a billion laughs.
func laughs(set, get string) string {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, set, i+1)
		b.WriteString(strings.Repeat(fmt.Sprintf(get, i), 10) + "\n")
	}
	return b.String()
}

// TestHostile checks that no Dockerfile makes a translation crash, or take more than 64 MiB.
func TestHostile(t *testing.T) {
	if raced {
		t.Skip("measures memory")
	}
	for name, text := range hostile() {
		t.Run(name, func(t *testing.T) {
			c := dockerfileCase(t, text)
			peak, err := peakOf(func() error {
				_, err := c.translate()
				return err
			})
			t.Logf("%d bytes, peak %.1f MiB, error %.100v", len(text), float64(peak)/(1<<20), err)
			if peak > 64<<20 {
				t.Errorf("took %d MiB", peak>>20)
			}
		})
	}
}

// TestLight checks how large a Dockerfile may be: much larger if most of it is comments and long here-documents; and that who is
// over is told what it is.
func TestLight(t *testing.T) {
	if raced {
		t.Skip("one goroutine reads 60 MiB")
	}
	const comment = "#" + "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"
	line := strings.Repeat("x", 60_000) + "\n"
	many := func(s string, size int) string { return strings.Repeat(s, size/len(s)) }
	const end = "FROM busybox\nRUN x\n"
	for _, tt := range []struct{ text, want string }{
		{many(comment, 5<<20) + end, ""},
		{many("#"+line, 9<<20) + end, ""},
		{"FROM busybox\nCOPY <<E /x\n" + many(line, 6<<20) + "E\n", ""},
		{"FROM busybox\nRUN <<E\n#!/bin/x\n" + many(line, 9<<20) + "E\n", ""},
		{"FROM busybox\nCOPY <<E /x\n" + many(line, 3<<20) + "E\n" + many("#"+line, 3<<20) + "COPY <<-'F' /y\n" + many("\t"+line, 2<<20) + "F\n", ""},
		{many(comment, 9<<20) + many("#\n", 1<<19) + end, "the Dockerfile is too large: it has 9"},
		{"FROM busybox\nCOPY <<E /x\n" + many(line, 5<<20) + "$A\nE\n", "larger than the 4194304 bytes that are allowed besides comments"},
		{"FROM busybox\nENV A=" + many("x\\\n", 5<<20) + "\n", "larger than the 4194304 bytes that are allowed besides comments"},
		{"FROM busybox\nCOPY <<E /x\n" + many(line, 9<<20), "larger than the 4194304 bytes that are allowed besides comments"}, // it has no end
		{many("#"+line, 11<<20) + end, "larger than the 10485760 bytes that are allowed"},
	} {
		_, err := dockerfileCase(t, tt.text).translate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.40q: %d bytes: got %.200v, want %q", tt.text, len(tt.text), err, tt.want)
		}
	}
}

// TestHostileReports checks the same of questions about the Dockerfile, with the answers as they cross the wire: an answer
// must not name each of many lines for each of many findings.
func TestHostileReports(t *testing.T) {
	if raced {
		t.Skip("measures memory")
	}
	all := hostile()
	for _, name := range []string{
		"args-on-lines", "global-args", "secrets-on-lines", "undefined-on-lines", "undefined-in-from", "legacy", "mounts-on-lines",
		"stages-most", "heredoc-most", "long-names", "huge", "light-script",
	} {
		for _, call := range []frontend.Call{frontend.Check, frontend.Outline, frontend.Targets} {
			t.Run(fmt.Sprintf("%s/%d", name, call), func(t *testing.T) {
				c := dockerfileCase(t, all[name])
				size := 0
				peak, err := peakOf(func() error {
					doc, err := frontend.Inspect(t.Context(), New(), call, c.req, c.env)
					if err != nil {
						return err
					}
					text, err := report.JSON(doc)
					size = len(text)
					return err
				})
				t.Logf("%d bytes of JSON, peak %.1f MiB, error %.100v", size, float64(peak)/(1<<20), err)
				if peak > 64<<20 {
					t.Errorf("took %d MiB", peak>>20)
				}
			})
		}
	}
}

// peakOf returns by how many bytes of live objects the heap grew at most while f ran. On a busy machine the collector comes
// late, and what is measured is garbage too, so that a high peak is measured again and the least counts.
func peakOf(f func() error) (least uint64, err error) {
	for i := range 3 {
		var peak uint64
		if peak, err = peakOnce(f); i == 0 || peak < least {
			least = peak
		}
		if least <= 64<<20 {
			break
		}
	}
	return least, err
}

func peakOnce(f func() error) (uint64, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // so that the heap is close to what is alive
	heap := func() uint64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	debug.FreeOSMemory()
	before := heap()
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		most := before
		tick := time.NewTicker(200 * time.Microsecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				most = max(most, heap())
			case <-stop:
				peak <- max(most, heap()) - before
				return
			}
		}
	}()
	err := f()
	close(stop)
	return <-peak, err
}
