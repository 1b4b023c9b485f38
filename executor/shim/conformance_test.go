package shim_test

import (
	"os"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/executortest"
)

// The shim keeps the contract.
func TestConformance(t *testing.T) {
	needsRoot(t)
	executortest.Run(t, func(t *testing.T) (executor.Executor, *os.File) {
		root, _ := newRoot(t)
		return newExecutor(t), root
	})
}
