package executor

import (
	"strings"
	"testing"
)

// A limit is told in the largest unit that has it as a whole number, as people write limits.
func TestMemoryLimitText(t *testing.T) {
	for limit, want := range map[int64]string{
		20 << 20: "20 MiB", 1 << 30: "1 GiB", 1536 << 20: "1536 MiB", 1000: "1000 bytes", 6<<10 + 1: "6145 bytes", 5 << 50: "5120 TiB",
	} {
		err := &ExitError{Args: []string{"sh"}, Exit: Exit{Code: 137, OOMKilled: true}, MemoryLimit: limit}
		if !strings.HasSuffix(err.Error(), "(limit "+want+")") {
			t.Errorf("%d: got %q, want %s", limit, err, want)
		}
	}
}
