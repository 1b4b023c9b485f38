package buildkit

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestLargeDockerfiles checks that the daemon takes no more than 64 MiB from the machine while it reads a Dockerfile, the
// largest that there may be and larger ones, garbage and all; and that a client is told why one is refused.
func TestLargeDockerfiles(t *testing.T) {
	d := observed(t)
	line := strings.Repeat("x", 60_000) + "\n"
	words := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	for _, tc := range []struct{ name, text, want string }{
		{"small", "LABEL a=b\n", ""},
		{"a document", "COPY <<E /x\n" + strings.Repeat(line, 69) + "E\n", ""},
		{"a document of words", "COPY <<E /x\n" + strings.Repeat(strings.Repeat("x ", 30_000)+"\n", 19) + "E\n", ""},
		{"comments", strings.Repeat("#x\n", 500_000) + "LABEL a=b\n", ""},
		{"labels", "LABEL " + words("a%d=b \\\n", 45_000) + "b=c\n", ""},
		{"an error after a document", "COPY <<E /x\n" + strings.Repeat(line, 68) + "E\nLABLE a=b\n", "unknown instruction: LABLE"},
		{"too large a document", "COPY <<E /x\n" + strings.Repeat(line, 260) + "E\n", "larger than the 10485760 bytes"},
		{"too many comments", strings.Repeat("#x\n", 5_000_000), "larger than the 10485760 bytes"},
		{"too many words", "ADD " + strings.Repeat("a \\\n", 90_000) + "b\n", "too large"},
	} {
		d.profile("heap?gc=1")
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", d.cmd.Process.Pid), []byte("5"), 0); err != nil {
			t.Fatal(err)
		}
		before := d.memory("VmHWM")
		_, _, err := d.solve(t.Context(), opts(t, map[string]string{"Dockerfile": "FROM scratch\n" + tc.text}))
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
		grown := d.memory("VmHWM") - before
		t.Logf("%s: %d bytes, %.0f MiB", tc.name, len(tc.text), grown)
		if grown > 64 {
			t.Errorf("%s: the daemon has grown by %.0f MiB", tc.name, grown)
		}
	}
}
