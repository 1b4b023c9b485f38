package crash

import (
	"strings"
	"testing"
)

// TestOnlyOwnCache checks that an image which says that it was built as a Dockerfile would build it is not taken for the
// result, and that what changes nothing but the config of an image is not overlooked (CVE-2024-24557).
func TestOnlyOwnCache(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	history := []any{
		map[string]any{"created_by": "/bin/sh -c #(nop) COPY --from=busybox /bin /bin"},
		map[string]any{"created_by": "RUN /bin/sh -c echo ours > /f # buildkit", "comment": "buildkit.dockerfile.v0"},
	}
	h.image("mimic", map[string]any{"history": history, "Cmd": []string{"/bin/sh", "-c", "echo ours > /f"}}, nil, file("f", "evil\n"))
	h.image("scratch-like", map[string]any{"history": history[1:]}, nil, file("f", "evil\n"))
	read := func(tag string) string { return h.must("", "run", "--rm", "--network", "none", tag, "cat", "/f") }
	for _, dockerfile := range []string{
		"FROM busybox\nRUN echo ours > /f\n", "FROM mimic\nRUN echo ours > /f\n", "FROM scratch\nCOPY --from=busybox /bin /bin\nRUN echo ours > /f\n",
	} {
		h.must(dockerfile, "build", "-q", "-t", "own", "-")
		if got := read("own"); got != "ours\n" {
			t.Errorf("%q has %q", dockerfile, got)
		}
	}
	const base = "FROM busybox\nRUN echo ours > /f\n"
	seen := map[string]string{}
	for _, line := range []string{
		"", "HEALTHCHECK CMD one", "HEALTHCHECK CMD two", "HEALTHCHECK NONE", "ONBUILD RUN one", "ONBUILD RUN two", "STOPSIGNAL 9", "STOPSIGNAL 10",
		"SHELL [\"one\"]", "SHELL [\"two\"]", "USER 1", "USER 2", "VOLUME /one", "EXPOSE 1", "LABEL a=b", "WORKDIR /", "ENTRYPOINT one", "CMD one",
	} {
		id := strings.TrimSpace(h.must(base+line+"\n", "build", "-q", "-t", "changed", "-"))
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q are one image", line, other)
		}
		seen[id] = line
	}
	// What RUN depends on of the config is in its key.
	for _, line := range []string{"SHELL [\"/bin/sh\", \"-c\", \"echo other > /f; true\"]", "ENV A=other"} {
		h.must("FROM busybox\n"+line+"\nRUN echo ${A:-ours} > /f\n", "build", "-q", "-t", "changed", "-")
		if got := read("changed"); got != "other\n" {
			t.Errorf("%s: the file has %q", line, got)
		}
	}
	h.must("FROM busybox\nONBUILD RUN echo one > /f\n", "build", "-q", "-t", "trigger", "-")
	h.must("FROM trigger\n", "build", "-q", "-t", "child", "-")
	h.must("FROM busybox\nONBUILD RUN echo two > /f\n", "build", "-q", "-t", "trigger", "-")
	h.must("FROM trigger\n", "build", "-q", "-t", "child", "-")
	if got := read("child"); got != "two\n" {
		t.Errorf("after the trigger has changed, the file has %q", got)
	}
}
