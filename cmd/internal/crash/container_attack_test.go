package crash

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestContainerAttacks runs a program in containers that tries all that they must not be able to do, and sees that it
// would find out: what a container was given on purpose, it can.
func TestContainerAttacks(t *testing.T) {
	h := newHost(t, "")
	c := newCanary(t)
	build := exec.Command("go", "build", "-o", filepath.Join(h.dir, "attacker"), "./testdata/attacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the attacker: %v\n%s", err, out)
	}
	h.start()
	h.importBusybox()
	attack := []string{"/attacker", strconv.Itoa(os.Getpid()), c.dir}
	volume := h.dir + "/attacker:/attacker:ro"
	for _, test := range []struct{ args, can string }{
		{"--network none", ""},
		{"--user 1000 --network none", ""},
		{"--network host --ipc host", ""},
		{"--init --tmpfs /tmp --pid host", "kill,pidfd_open"},
		{"--security-opt seccomp=unconfined --network none", "user namespace,keyctl,add_key"},
		{"--privileged --network none", "mount,raw device,handle,bpf"},
	} {
		args := append(append(append([]string{"run", "--rm", "-v", volume}, strings.Fields(test.args)...), "busybox"), attack...)
		r := h.run("", args...)
		c.check(t, test.args, r.stdout, r.stderr)
		checkAttack(t, test.args, test.can, r)
	}
	id := strings.TrimSpace(h.must("", "run", "-d", "-v", volume, "busybox", "sleep", "1000000"))
	checkAttack(t, "exec", "", h.run("", append([]string{"exec", id}, attack...)...))
	checkAttack(t, "exec --privileged", "link", h.run("", append([]string{"exec", "--privileged", id}, attack...)...))
	h.must("", "rm", "-f", id)
}

// checkAttack compares what was possible with what has to be; "" for nothing at all.
func checkAttack(t *testing.T, how, can string, r result) {
	t.Helper()
	if r.err != nil || !strings.HasSuffix(r.stdout, "done\n") {
		t.Errorf("%s: %v", how, r)
	}
	if can == "" && strings.Contains(r.stdout, "possible") {
		t.Errorf("%s:\n%s", how, r.stdout)
	}
	for _, name := range strings.Split(can, ",") {
		if can != "" && !strings.Contains(r.stdout, "possible: "+name+"\n") {
			t.Errorf("%s: %s is not possible:\n%s", how, name, r.stdout)
		}
	}
}
