package buildkit

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/moby/buildkit/client"
)

// A goldenCase is a series of builds with one builder that knows nothing of what they build.
type goldenCase struct {
	name string
	runs []func(*lab) client.SolveOpt
}

// tarball returns an archive of files, in the order of their names.
func tarball(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Format: tar.FormatPAX}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unended returns the beginning of an archive, with one file.
func unended(t *testing.T, name, text string) []byte {
	t.Helper()
	const trailer = 1024 // two empty blocks
	b := tarball(t, map[string]string{name: text})
	return b[:len(b)-trailer]
}

// file builds a Dockerfile in which REGISTRY, PRIVATE and WEB are the lab's, beside the files of a context.
func file(text string, more ...func(*lab, *client.SolveOpt)) func(*lab) client.SolveOpt {
	return func(l *lab) client.SolveOpt {
		o := opts(l.t, map[string]string{"Dockerfile": l.fill(text), "file": l.salt, "dir/a": l.salt, "dir/b": "b"})
		for _, f := range more {
			f(l, &o)
		}
		return o
	}
}

// attr sets an attribute of the frontend.
func attr(k, v string) func(*lab, *client.SolveOpt) {
	return func(l *lab, o *client.SolveOpt) { o.FrontendAttrs[k] = l.fill(v) }
}

// remote builds what is elsewhere: nothing is the client's.
func remote(from string) func(*lab, *client.SolveOpt) {
	return func(l *lab, o *client.SolveOpt) {
		o.LocalMounts = nil
		o.FrontendAttrs["context"] = l.fill(from)
	}
}

// to exports the result, with these pairs of keys and values.
func to(kind string, pairs ...string) func(*lab, *client.SolveOpt) {
	return func(l *lab, o *client.SolveOpt) {
		e := client.ExportEntry{Type: kind, Attrs: map[string]string{}}
		for i := 0; i < len(pairs); i += 2 {
			e.Attrs[pairs[i]] = l.fill(pairs[i+1])
		}
		switch kind {
		case client.ExporterLocal:
			e.OutputDir = l.t.TempDir()
		case client.ExporterOCI, client.ExporterDocker, client.ExporterTar:
			var s sink
			e = s.to(kind, e.Attrs)
		}
		o.Exports = append(o.Exports, e)
	}
}

// goldenCases are the builds whose progress is compared.
func goldenCases() []goldenCase {
	once := func(name string, run func(*lab) client.SolveOpt) goldenCase {
		return goldenCase{name, []func(*lab) client.SolveOpt{run}}
	}
	twice := func(name string, run func(*lab) client.SolveOpt) goldenCase {
		return goldenCase{name, []func(*lab) client.SolveOpt{run, run}}
	}
	const small = "FROM REGISTRY/base:1\nRUN echo out; echo err >&2\nCOPY file /f\nCOPY dir /d\n"
	return []goldenCase{
		twice("scratch", file("FROM scratch\nCOPY file /\n", to("image", "name", "a:1"))),
		twice("cold", file(small)),
		once("from", file("FROM REGISTRY/base:1\nENV a=b\nRUN true\n")),
		twice("stages", file("FROM REGISTRY/base:1 AS one\nRUN echo 1 > /x\nFROM REGISTRY/base:1\nRUN echo 2 > /y\nCOPY --from=one /x /\n")),
		{"changed", []func(*lab) client.SolveOpt{
			file("FROM REGISTRY/base:1\nRUN echo 1\nWORKDIR /w\nRUN echo 2\n"),
			file("FROM REGISTRY/base:1\nRUN echo 1\nWORKDIR /w\nRUN echo 3\nCOPY file .\n"),
		}},
		once("copyfrom", file("FROM scratch\nCOPY --from=REGISTRY/base:1 /second /\n")),
		once("auth", file("FROM PRIVATE/base:1\nRUN true\n", to("image", "name", "PRIVATE/new:1", "push", "true"))),
		once("push", file(small, to("image", "name", "REGISTRY/new:1,REGISTRY/new:2", "push", "true"))),
		once("image", file(small, to("image", "name", "new:1,new:2"))),
		once("oci", file(small, to("oci"))),
		once("docker", file(small, to("docker", "name", "new:1"))),
		once("tar", file("FROM scratch\nCOPY file /\n", to("tar"))),
		once("local", file("FROM scratch\nCOPY dir /\n", to("local"))),
		once("many", file("FROM scratch\nCOPY dir /\n", to("local"), to("oci"))),
		once("rewrite", file(small, attr("build-arg:SOURCE_DATE_EPOCH", "0"), to("image", "name", "a:1", "rewrite-timestamp", "true"))),
		once("rewrite-none", file("FROM scratch\nCOPY file /\n", to("oci", "rewrite-timestamp", "true"))),
		once("fails", file("FROM REGISTRY/base:1\nRUN echo before; exit 3\nRUN echo after\n")),
		once("missing", file("FROM scratch\nCOPY nothing /\nCOPY file /\n")),
		once("noimage", file("FROM REGISTRY/none:1\nRUN true\n")),
		once("syntax", file("FROM REGISTRY/base:1\nRUNN true\n")),
		once("warnings", file("FROM REGISTRY/base:1 as one\nMAINTAINER me\nENV a b\nRUN true\nCMD true\n")),
		once("warnings-escape", file("from REGISTRY/base:1\nCopy file /\nRUN echo ${nothing}\n")),
		once("platforms", file("FROM --platform=linux/amd64 REGISTRY/base:1 AS b\nFROM scratch\nCOPY file /\n", attr("platform", "linux/amd64,linux/arm64"), to("oci"))),
		once("platforms-pull", file("FROM REGISTRY/base:1\nCOPY file /\n", attr("platform", "linux/amd64,linux/arm64"), to("oci"))),
		once("git", file("", remote("http://WEB/repo.git#main"))),
		once("http", file("", remote("http://WEB/context.tar"))),
		once("add", file("FROM scratch\nADD http://WEB/file.txt /\nADD http://WEB/repo.git#main /r\n")),
		once("named-image", file("FROM base\nRUN true\n", attr("context:base", "docker-image://REGISTRY/base:1"))),
		once("named-local", file("FROM scratch\nCOPY --from=other dir /\n", attr("context:other", "local:context"))),
		once("ignore", func(l *lab) client.SolveOpt {
			return opts(l.t, map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": "b\n", "a": l.salt, "b": "b"})
		}),
		once("otherfile", func(l *lab) client.SolveOpt {
			o := opts(l.t, map[string]string{"x.Dockerfile": "FROM scratch\nCOPY . /\n", "a": l.salt})
			o.FrontendAttrs["filename"] = "x.Dockerfile"
			return o
		}),
		once("mounts", file("FROM REGISTRY/base:1\nRUN --mount=type=cache,target=/c --mount=type=bind,target=/b --mount=type=tmpfs,target=/t true\n")),
		once("heredoc", file("FROM REGISTRY/base:1\nRUN <<EOF\necho a\necho b\nEOF\nCOPY <<EOF /x\nx\nEOF\n")),
		once("nocache", file(small, attr("no-cache", ""))),
		once("target", file("FROM REGISTRY/base:1 AS one\nRUN echo 1\nFROM one AS two\nRUN echo 2\nFROM one AS three\nRUN echo 3\n", attr("target", "two"))),
		once("link", file("FROM REGISTRY/base:1\nRUN true\nCOPY --link file /\nADD --chmod=600 file /g\n")),
		once("network", file("FROM REGISTRY/base:1\nRUN --network=none echo a\nUSER 1\nRUN [\"echo\", \"b\"]\n")),
	}
}

// fill replaces names by the lab's addresses.
func (l *lab) fill(s string) string { return l.filler().Replace(s) }
