package executortest_test

import (
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/executortest"
)

// The fake keeps the contract.
func TestFakeHost(t *testing.T) {
	executortest.RunHost(t, func(t *testing.T) executortest.HostCase {
		h := executortest.NewFakeHost(executortest.Shell)
		return executortest.HostCase{
			Host: h, Root: shellRoot(t), Again: func(*testing.T) executor.Host { return h },
			Break: func(_ *testing.T, dir string) { h.Break(dir) },
		}
	})
}
