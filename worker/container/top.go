package container

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/boxbuild/boxbuild/worker"
)

// renamesPid finds pid=NAME among the arguments of ps, which would rename the column that is looked for.
var renamesPid = regexp.MustCompile(`\bpid=\w`)

// Top implements worker.Containers.
func (m *Manager) Top(ctx context.Context, ref string, args []string) (*container.TopResponse, error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	box, err := c.running()
	if err != nil {
		return nil, err
	}
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	for _, a := range args {
		if renamesPid.MatchString(a) {
			return nil, worker.Invalidf("specifying \"%s\" is not allowed", a)
		}
	}
	pids, err := box.Pids(ctx)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "ps", append(slices.Clone(args), onlyPids(pids))...).Output()
	if err != nil { // some options, such as f, do not go with q
		out, err = exec.CommandContext(ctx, "ps", args...).Output()
	}
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) && len(ee.Stderr) > 0 {
			return nil, worker.Invalidf("ps: %s", strings.TrimSpace(strings.SplitN(string(ee.Stderr), "\n", 2)[0]))
		}
		return nil, worker.Errorf(class(err), "running ps: %v", err)
	}
	top, err := parsePS(string(out), pids)
	if err != nil {
		return nil, err
	}
	c.publish(events.ActionTop, nil)
	return top, nil
}

// onlyPids is the option that has ps show those, whatever their terminal.
func onlyPids(pids []int) string {
	list := make([]string, len(pids))
	for i, pid := range pids {
		list[i] = strconv.Itoa(pid)
	}
	return "-q" + strings.Join(list, ",")
}

// parsePS picks the lines of the output of ps that are about pids. The last column may have spaces.
func parsePS(out string, pids []int) (*container.TopResponse, error) {
	lines := strings.Split(out, "\n")
	top := &container.TopResponse{Titles: strings.Fields(lines[0]), Processes: [][]string{}}
	at := slices.Index(top.Titles, "PID")
	if at < 0 {
		return nil, worker.Invalidf("Couldn't find PID field in ps output")
	}
	mine := false
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if fields[0] == "-" { // a thread of the process above
			if mine {
				top.Processes = append(top.Processes, columns(fields, len(top.Titles)))
			}
			continue
		}
		if len(fields) <= at {
			continue
		}
		pid, err := strconv.Atoi(fields[at])
		if mine = err == nil && slices.Contains(pids, pid); mine {
			top.Processes = append(top.Processes, columns(fields, len(top.Titles)))
		}
	}
	return top, nil
}

func columns(fields []string, n int) []string {
	if len(fields) <= n {
		return fields
	}
	return append(fields[:n-1:n-1], strings.Join(fields[n-1:], " "))
}
