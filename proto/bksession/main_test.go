package bksession

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { syscall.Umask(0o022) }

// TestMain gives BuildKit's auth provider a directory of its own for its seeds, and checks that every goroutine of this
// package has ended with the tests.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bksession")
	if err == nil {
		err = os.Setenv("DOCKER_CONFIG", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if left := leaked(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", left)
		code = 1
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// leaked returns the stacks of goroutines that are in this package, or in the gRPC client, once all tests are done.
func leaked() string {
	var left []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); runtime.Gosched() {
		buf := make([]byte, 4<<20)
		left = nil
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			ours := strings.Contains(g, "proto/bksession.") || strings.Contains(g, "proto/filesync.") || strings.Contains(g, "grpc/internal/transport.")
			if ours && !strings.Contains(g, "bksession.leaked") {
				left = append(left, g)
			}
		}
		if left == nil {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}
