package buildkit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// A windowsCase is a build on a base for Windows.
type windowsCase struct {
	name, dockerfile string
	platform         string // empty for windows/amd64
	// linked says that BuildKit v0.32.2, where it has overlayfs, writes layers of COPY --link as for Linux, so that Windows sees
	// none of their files. What is recorded is the form that it gives to all others.
	linked bool
}

// windowsCases are builds from REGISTRY/win:1, for two versions of Windows, REGISTRY/multi:1, which is for Linux too, and
// REGISTRY/linux:1.
var windowsCases = []windowsCase{
	{name: "config", dockerfile: "FROM REGISTRY/win:1\nENV A=1\nLABEL l=2\nCMD [\"x.exe\"]\n"},
	{name: "copy", dockerfile: "FROM REGISTRY/win:1\nCOPY f.txt /app/\nCOPY f.txt C:\\\\License.txt\nCOPY f.txt /Windows/System32/\n"},
	{name: "copy-dir", dockerfile: "FROM REGISTRY/win:1\nCOPY dir /ProgramData/\n"},
	{name: "copy-case", dockerfile: "FROM REGISTRY/win:1\nCOPY f.txt /windows/system32/\n"},
	{name: "copy-modes", dockerfile: "FROM REGISTRY/win:1\nCOPY --chown=7:8 f.txt /a/\nCOPY --chown=ContainerUser f.txt /b/\nCOPY --chmod=700 dir /c/\n"},
	{name: "copy-onto-symlink", dockerfile: "FROM REGISTRY/win:1\nCOPY [\"f.txt\", \"/Documents and Settings/f.txt\"]\n"},
	{name: "copy-link", dockerfile: "FROM REGISTRY/win:1\nCOPY --link f.txt /License.txt\nCOPY --link dir /ProgramData/\n", linked: true},
	{name: "copy-heredoc", dockerfile: "FROM REGISTRY/win:1\nCOPY <<E /made.txt\nhi\nE\n"},
	{name: "copy-over", dockerfile: "FROM REGISTRY/win:1\nCOPY dir /d/\nCOPY f.txt /d/sub\n"},
	{name: "add-archive", dockerfile: "FROM REGISTRY/win:1\nADD a.tar C:/data/\n"},
	{name: "add-links", dockerfile: "FROM REGISTRY/win:1\nADD links.tar /l/\n"},
	{name: "workdir", dockerfile: "FROM REGISTRY/win:1\nWORKDIR C:\\\\app\\\\sub\nCOPY f.txt .\nUSER ContainerAdministrator\nWORKDIR x\n"},
	{name: "stages", dockerfile: "FROM REGISTRY/win:1 AS a\nENV P=1\nCOPY f.txt /a/\nFROM a\nCOPY dir/a.txt /a/f.txt\nCOPY --from=a /a /again/\n"},
	{name: "from-linux", dockerfile: "FROM --platform=linux/amd64 REGISTRY/linux:1 AS b\nRUN mkdir /o && echo a > /o/a.exe && ln /o/a.exe /o/b.exe && ln -s a.exe /o/c.exe\n" +
		"FROM REGISTRY/win:1\nCOPY --from=b /o /o/\n"},
	{name: "to-linux", dockerfile: "FROM REGISTRY/win:1 AS w\nCOPY f.txt /License.txt\n" +
		"FROM --platform=linux/amd64 REGISTRY/linux:1 AS b\nRUN --mount=from=w,target=/w find /w | sort > /list && cp /w/License.txt /l\n" +
		"FROM --platform=linux/amd64 REGISTRY/linux:1\nCOPY --from=b /list /l /\nCOPY --from=w /ProgramData /p/\n"},
	{name: "to-scratch", dockerfile: "FROM REGISTRY/win:1 AS w\nFROM scratch\nCOPY --from=w /ProgramData /p/\n"},
	{name: "from-scratch", dockerfile: "FROM scratch\nCOPY f.txt /\n"},
	{name: "version", dockerfile: "FROM REGISTRY/win:1\nCOPY f.txt /app/\n", platform: "windows(10.0.17763.1000)/amd64"},
	{name: "index", dockerfile: "FROM REGISTRY/multi:1\nCOPY f.txt /app/\n", platform: "linux/amd64,windows/amd64"},
	{name: "other-platform", dockerfile: "FROM REGISTRY/winsingle:1\nCOPY f.txt /app/\n", platform: "linux/amd64"},
	{name: "foreign", dockerfile: "FROM REGISTRY/foreign:1\nCOPY f.txt /app/\n"},
	{name: "linux-as-windows", dockerfile: "FROM REGISTRY/linux:1\nCOPY f.txt /app/\n"},
}

// TestWindows checks that images which are built on a base for Windows are those that BuildKit builds: index,
// configuration, history and each entry of each layer, with what it says to Windows. Targets of symlinks are compared without
// the "Files/" that BuildKit puts before them; the first entries of a layer have the time 1970 here, and that of the build there.
//
// To record testdata/windows again, with a buildkitd of one's own whose cache may be emptied:
// go test ./cmd/internal/e2e/buildkit -run TestWindows -record unix:///path/of/its/socket
func TestWindows(t *testing.T) {
	r := registrytest.New(registrytest.Behaviour{})
	registry := registrytest.Start(t, r)
	base := windowsBase(t, r)
	var c *client.Client
	if *record == "" {
		c = start(t).c
	} else {
		var err error
		if c, err = client.New(t.Context(), *record); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Prune(t.Context(), nil, client.PruneAll); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range windowsCases {
		t.Run(tc.name, func(t *testing.T) {
			dockerfile := map[string]string{"Dockerfile": strings.ReplaceAll(tc.dockerfile, "REGISTRY", registry)}
			opt := client.SolveOpt{
				Frontend:      "dockerfile.v0",
				FrontendAttrs: map[string]string{"platform": tc.platform},
				LocalMounts:   map[string]fsutil.FS{"context": windowsContext(t), "dockerfile": tree(t, dockerfile)},
			}
			if tc.platform == "" {
				opt.FrontendAttrs["platform"] = "windows/amd64"
			}
			var out sink
			opt.Exports = []client.ExportEntry{out.to(client.ExporterOCI, nil)}
			l := &listing{t: t, base: base, files: solvedFiles(t, c, opt, &out), since: time.Now().Add(-time.Hour)}
			if *record != "" {
				l.asWindows = tc.linked
			}
			got := "# " + strings.ReplaceAll(strings.TrimSpace(tc.dockerfile), "\n", "\n# ") + "\n" + l.all()
			compareWindows(t, tc.name, got)
		})
	}
}

// solvedFiles builds, and returns the files of the OCI layout that comes out.
func solvedFiles(t *testing.T, c *client.Client, opt client.SolveOpt, out *sink) map[string]string {
	t.Helper()
	ch := make(chan *client.SolveStatus)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range ch { // what is told is of no interest
		}
	}()
	_, err := c.Solve(context.WithoutCancel(t.Context()), nil, opt, ch)
	<-done
	if err != nil {
		t.Fatal(err)
	}
	return readTar(t, out)
}

func compareWindows(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "windows", name+".txt")
	if *record != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("built\n%s\nBuildKit builds\n%s", got, want)
	}
}

// windowsContext is a build context in which nothing is new.
func windowsContext(t *testing.T) fsutil.FS {
	t.Helper()
	dir := t.TempDir()
	old := time.Unix(1500000000, 0)
	links := tarOf(t, entry{name: "a.txt", kind: '0', text: "a"}, entry{name: "b.txt", kind: '1', link: "a.txt"},
		entry{name: "s", kind: '2', link: "a.txt"}, entry{name: "t", kind: '2', link: "/d/x"})
	for name, text := range map[string]string{
		"f.txt": "hello\n", "dir/a.txt": "a\n", "dir/sub/x.txt": "x\n", "links.tar": string(links),
		"a.tar": string(tarOf(t, entry{name: "d", kind: '5', mode: 0o755}, entry{name: "d/x.exe", kind: '0', mode: 0o755, text: "MZ"})),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"dir/sub/x.txt", "dir/sub", "dir/a.txt", "dir", "f.txt", "a.tar", "links.tar", "."} {
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(fmt.Errorf("opening the context: %w", err))
	}
	return fs
}
