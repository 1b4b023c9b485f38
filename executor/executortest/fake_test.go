package executortest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/executortest"
)

// shellRoot returns a root with nothing but a file at /bin/sh.
func shellRoot(t *testing.T) *os.File {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/sh"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// The Fake keeps the contract.
func TestFake(t *testing.T) {
	executortest.Run(t, func(t *testing.T) (executor.Executor, *os.File) {
		return executortest.NewFake(executortest.Shell), shellRoot(t)
	})
}
