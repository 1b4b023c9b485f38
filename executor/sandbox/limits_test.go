package sandbox_test

import (
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/sandbox"
)

// A limit that no controller of the machine can hold is an error, which names both; without limits, and where it is not
// known what the machine has, nothing is asked for.
func TestLimitWithoutController(t *testing.T) {
	for _, c := range []struct {
		limits     executor.Limits
		controller string
	}{
		{executor.Limits{Memory: 1 << 20}, "memory"},
		{executor.Limits{MemorySwap: -1}, "memory"},
		{executor.Limits{CPUShares: 2}, "cpu"},
		{executor.Limits{CPUQuota: 2}, "cpu"},
		{executor.Limits{CPUPeriod: 2}, "cpu"},
		{executor.Limits{CPUSetCPUs: "0"}, "cpuset"},
		{executor.Limits{CPUSetMems: "0"}, "cpuset"},
		{executor.Limits{Pids: 2}, "pids"},
		{executor.Limits{}, ""},
	} {
		spec := &executor.Spec{ID: "box-1", Process: executor.Process{Args: []string{"/x"}}, Limits: c.limits}
		all := map[string]bool{"memory": true, "cpu": true, "cpuset": true, "pids": true}
		for _, controllers := range []map[string]bool{nil, all} {
			if _, err := sandbox.Describe(spec, &sandbox.Host{Root: "/r", Controllers: controllers}); err != nil {
				t.Errorf("%+v with %v: %v", c.limits, controllers, err)
			}
		}
		delete(all, c.controller)
		_, err := sandbox.Describe(spec, &sandbox.Host{Root: "/r", CgroupParent: "/parent", Controllers: all})
		if c.controller == "" {
			if err != nil {
				t.Errorf("no limits: %v", err)
			}
			continue
		}
		for _, want := range []string{`"` + c.controller + `"`, "limit", "/parent"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: error is %v, want %s in it", c.limits, err, want)
			}
		}
	}
}

// Memory is limited also where swap can't be, and without a limit of its own swap gets as much again.
func TestSwapLimit(t *testing.T) {
	spec := &executor.Spec{ID: "box-1", Process: executor.Process{Args: []string{"/x"}}, Limits: executor.Limits{Memory: 1 << 20}}
	for _, no := range []bool{false, true} {
		out, err := sandbox.Describe(spec, &sandbox.Host{Root: "/r", NoSwapLimit: no})
		if err != nil {
			t.Fatal(err)
		}
		m := out.Linux.Resources.Memory
		if m == nil || m.Limit == nil || *m.Limit != 1<<20 || (m.Swap == nil) != no || m.Swap != nil && *m.Swap != 2<<20 {
			t.Errorf("no limit of swap %t: memory is %+v", no, m)
		}
	}
}
