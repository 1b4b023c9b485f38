package container

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// That the kernel kills a process for want of memory is known at once, while the container runs on: the event comes before
// that of the exec's end, the state says so then and later, and the container's own end does not tell of it again. A
// run after that begins anew, and one that is itself killed has its event before "die".
func TestRealOOM(t *testing.T) {
	f := newReal(t)
	ctx := t.Context()
	req := sh("if [ -e /again ]; then exec dd if=/dev/zero of=/dev/null bs=64M count=1; fi; echo > /again; while [ ! -e /end ]; do sleep 0.05; done")
	req.HostConfig.Memory, req.HostConfig.MemorySwap = 32<<20, 32<<20 // with room for what starts a process
	id := f.run(req)
	e, err := f.ExecCreate(ctx, id, &container.ExecCreateRequest{Cmd: []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"}})
	f.must(err)
	_, err = f.ExecStart(ctx, e, &container.ExecStartRequest{Detach: true}, executor.Streams{})
	f.must(err)
	f.until(id, func(rec *record) bool { return rec.Status.OOMKilled })
	in, err := f.Inspect(ctx, id, false)
	f.must(err)
	if !in.State.Running || !in.State.OOMKilled {
		t.Errorf("state is %+v", in.State)
	}
	f.must(f.Rename(ctx, id, "other")) // it is a change like others
	for {                              // what is started while it still has the memory is killed, too
		in, err := f.ExecInspect(ctx, e)
		f.must(err)
		if !in.Running {
			break
		}
		time.Sleep(time.Millisecond)
	}
	end, err := f.ExecCreate(ctx, id, &container.ExecCreateRequest{Cmd: []string{"touch", "/end"}})
	f.must(err)
	_, err = f.ExecStart(ctx, end, &container.ExecStartRequest{Detach: true}, executor.Streams{})
	f.must(err)
	if code := f.await(id); code != 0 {
		t.Errorf("code is %d", code)
	}
	f.inPhase(id, Exited)
	if in, err = f.Inspect(ctx, id, false); err != nil || !in.State.OOMKilled || in.State.ExitCode != 0 {
		t.Errorf("state is %+v, %v", in.State, err)
	}
	said := f.seen.of(id)
	if oom, die := strings.Index(said, "oom"), strings.LastIndex(said, "die"); oom < 0 || die < oom || strings.Contains(said[die:], "oom") {
		t.Errorf("events are %s", said)
	}
	f.must(f.Start(ctx, id))
	if code := f.await(id); code != 137 {
		t.Errorf("code is %d", code)
	}
	f.inPhase(id, Exited)
	said = f.seen.of(id)
	said = said[strings.LastIndex(said, "start"):]
	if oom, die := strings.Index(said, "oom"), strings.LastIndex(said, "die"); oom < 0 || die < oom {
		t.Errorf("events are %s", said)
	}
	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{}))
}
