package runspec

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/pflag"
)

// cases are command lines: at least one for each flag of docker's run, and the forms that a flag has. DIR is a directory
// with the files that they name.
var cases = []string{
	"", "busybox-has-no-flags",
	"--add-host=one:192.0.2.1 --add-host=two:host-gateway --add-host six:2001:db8::1",
	"--annotation a=b --annotation c",
	"-a stdin -a STDOUT", "--attach stderr",
	"--blkio-weight 300 --blkio-weight-device /dev/null:200",
	"--cap-add NET_ADMIN --cap-add SYS_TIME --cap-drop ALL",
	"--cgroup-parent /some/where --cgroupns host", "--cgroupns private",
	"--cpu-period 50000 --cpu-quota 25000 --cpu-rt-period 1000000 --cpu-rt-runtime 950000 -c 512",
	"--cpus 1.5 --cpuset-cpus 0-1 --cpuset-mems 0", "--cpu-shares 7",
	"--device /dev/null --device /dev/zero:/dev/nought --device /dev/full:/dev/empty:r --device /dev/random:rw",
	"--device vendor.example/class=one --device vendor.example/class=two",
	"--device-cgroup-rule=c_1:3_mr",
	"--device-read-bps /dev/null:1mb --device-read-iops /dev/null:10 --device-write-bps /dev/null:2kb --device-write-iops /dev/null:20",
	"--dns 192.0.2.53 --dns 2001:db8::53 --dns-option ndots:2 --dns-opt timeout:1 --dns-search example.com",
	"--domainname example.com -h host", "--hostname another",
	"--entrypoint /bin/sh", "--entrypoint=",
	"-e A=1 -e B= -e FROM_HERE -e NOT_HERE -e A=2 --env-file DIR/env", "--env C=x=y",
	"--expose 80 --expose 100-102/udp --expose 53/sctp",
	"--gpus all", "--gpus 2", `--gpus "device=0,1","capabilities=utility"`,
	"--group-add 1000 --group-add wheel",
	"--health-cmd true --health-interval 1m --health-retries 3 --health-start-interval 1s --health-start-period 5s --health-timeout 100ms",
	"--health-interval 5s", "--no-healthcheck",
	"--init", "--init=false", "-i", "-t", "-it", "--interactive --tty -a stdin",
	"--ipc host", "--ipc shareable", "--ipc container:other",
	"-l a=1 -l b --label c=x=y --label-file DIR/labels",
	"--link other:alias --link third", "--network mine --link other:alias",
	"--log-driver local --log-opt max-size=10m --log-opt max-file=3", "--log-driver none",
	"-m 64m --memory-reservation 32m --memory-swap 128m --memory-swappiness 10", "--memory 1g --memory-swap -1", "--memory-swappiness 0",
	"--mount type=bind,src=/tmp,dst=/mnt,ro,bind-propagation=rslave,bind-recursive=disabled",
	"--mount type=bind,source=/tmp,target=/mnt,readonly,bind-recursive=writable --mount type=bind,source=/tmp,target=/two,readonly,bind-propagation=rprivate,bind-recursive=readonly",
	"--mount source=name,destination=/data,volume-subpath=a/b,volume-nocopy,volume-driver=local,volume-opt=type=nfs,volume-opt=o=addr=192.0.2.1,volume-label=x=y",
	"--mount type=volume,dst=/anonymous --mount type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770",
	"--mount type=image,source=busybox,target=/img,image-subpath=bin",
	"--network host", "--network none", "--net bridge", "--network container:other", "--network mine --ip 192.0.2.7 --ip6 2001:db8::7",
	"--network mine --network-alias a --net-alias b --link-local-ip 169.254.1.1 --mac-address 92:d0:c6:0a:29:33",
	"--network name=mine,alias=a,alias=b,ip=192.0.2.7,ip6=2001:db8::7,mac-address=92:d0:c6:0a:29:33,driver-opt=k=v,gw-priority=4,link-local-ip=169.254.1.1",
	"--network mine --network name=yours,alias=x", "--mac-address 92:d0:c6:0a:29:33", "--ip 192.0.2.7",
	"--oom-kill-disable --oom-score-adj -500", "--pid host", "--pid container:other", "--pids-limit 100", "--pids-limit -1", "--privileged",
	"-p 80", "-p 8080:80", "-p 127.0.0.1:8080:80", "-p 127.0.0.1::80", "-p 8000-8002:80-82/udp -p 53:53/udp -p 53:53/tcp", "-p 8000-8010:80",
	"-p [::1]:8080:80", "-p published=8080,target=80,protocol=udp", "-p 192.0.2.1:80:80 -p 192.0.2.2:80:80", "-P", "--publish-all --expose 9",
	"-p 38/sctp",
	"--read-only --tmpfs /run --tmpfs /tmp:rw,size=787448k,mode=1777",
	"--restart always", "--restart on-failure:3", "--restart unless-stopped", "--restart no", "--rm", "--runtime runc",
	"--security-opt no-new-privileges --security-opt apparmor=unconfined --security-opt label=disable --security-opt label:type:t",
	"--security-opt seccomp=unconfined", "--security-opt seccomp=DIR/profile.json", "--security-opt systempaths=unconfined --security-opt no-new-privileges=false",
	"--shm-size 1g", "--stop-signal SIGQUIT --stop-timeout 3", "--stop-timeout 0", "--storage-opt size=10G",
	"--sysctl net.core.somaxconn=1024 --sysctl net.ipv4.ip_forward=1",
	"--ulimit nofile=1024:2048 --ulimit nproc=5 --ulimit core=-1",
	"-u 1000:1000", "--user nobody", "--userns host", "--uts host",
	"-v /data", "-v name:/data", "-v name:/data:ro", "-v /tmp:/data:rw,z,rslave -v /tmp:/two:Z,ro", "-v ./here:/data -v ../up:/two:nocopy", "-v name:/data:nocopy -v name:/data:nocopy",
	"--volume-driver local -v name:/data", "--volumes-from other --volumes-from third:ro", "-w /work", "--workdir relative",
	"--cidfile DIR/none.cid", "--isolation default --kernel-memory 4m",
}

// refused are command lines that are no good for docker, and for the same reason not here. The text is what both say.
var refused = map[string]string{
	"-a nothing":                                 "valid streams are STDIN, STDOUT and STDERR",
	"--device /dev/null:/dev/x:q":                "bad mode specified: q",
	"--device /dev/null:relative":                "relative is not an absolute path",
	"--device :":                                 "bad format for path: :",
	"--device-cgroup-rule x":                     "invalid device cgroup format 'x'",
	"--env-file DIR/missing":                     "no such file or directory",
	"--label-file DIR/missing":                   "no such file or directory",
	"--expose x":                                 "invalid range format for --expose",
	"--health-retries -1":                        "--health-retries cannot be negative",
	"--health-interval -1s":                      "--health-interval cannot be negative",
	"--health-cmd x --no-healthcheck":            "--no-healthcheck conflicts with --health-* options",
	"--ip 1.2.3.4 --network name=n,ip=1.2.3.5":   "conflicting options: cannot specify both --ip and per-network IPv4 address",
	"--network-alias a --network name=n,alias=b": "conflicting options: cannot specify both --network-alias and per-network alias",
	"--network-alias a":                          "network-scoped aliases are only supported for user-defined networks",
	"--network host --network mine":              "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
	"--network mine --network mine":              "network \"mine\" is specified multiple times",
	"--log-driver none --log-opt a=b":            "invalid logging opts for driver none",
	"--mac-address x":                            "x is not a valid mac address",
	"--memory-swappiness 101":                    "invalid value: 101. Valid memory swappiness range is 0-100",
	"--pid container:":                           "--pid: invalid PID mode",
	"--uts x":                                    "--uts: invalid UTS mode",
	"--userns x":                                 "--userns: invalid USER mode",
	"--cgroupns x":                               "--cgroupns: invalid CGROUP mode",
	"-p a=":                                      "",
	"-p x":                                       "invalid",
	"-p published":                               "invalid",
	"--restart on-failure:x":                     "maximum retry count must be an integer",
	"--restart always --rm":                      "conflicting options: cannot specify both --restart and --rm",
	"--security-opt x":                           `invalid --security-opt: "x"`,
	"--security-opt seccomp=DIR/missing":         "opening seccomp profile",
	"--security-opt seccomp=DIR/env":             "compacting json for seccomp profile",
	"--storage-opt x":                            "invalid storage option",
	"--ulimit x":                                 "invalid ulimit",
}

// refusedHere are command lines that older docker clients leave to the daemon to refuse, or take and forget.
var refusedHere = map[string]string{
	"-v a::b":                "empty section between colons",
	"-v a:b:c:d":             "too many colons",
	"--mount type=bind,dst=": "value is empty",
	"--cpu-count 2":          "--cpu-count is not supported",
	"--cpu-percent 2":        "--cpu-percent is not supported",
	"--io-maxbandwidth 2":    "--io-maxbandwidth is not supported",
	"--io-maxiops 2":         "--io-maxiops is not supported",
	"--isolation hyperv":     "--isolation hyperv is not supported",
}

// words splits a command line at blanks; an underscore stands for a blank in a word.
func words(line, dir string) []string {
	var out []string
	for _, w := range strings.Fields(line) {
		w = strings.ReplaceAll(w, "DIR", dir)
		if strings.HasPrefix(w, "--device-cgroup-rule") {
			w = strings.ReplaceAll(w, "_", " ")
		}
		out = append(out, w)
	}
	return out
}

// files makes the directory that command lines name, and the environment that they read.
func files(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"env": "# comment\nF=1\nFROM_HERE\nG=a b\n", "labels": "x=1\ny\n", "profile.json": "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("FROM_HERE", "here")
	return dir
}

// request parses a command line as create does and returns the request as JSON.
func request(args []string) ([]byte, error) {
	var c Create
	fs := pflag.NewFlagSet("create", pflag.ContinueOnError)
	fs.SetInterspersed(false)
	fs.SetOutput(io.Discard)
	fs.String("name", "", "")
	c.Register(fs)
	if err := fs.Parse(append(slices.Clone(args), "image", "command", "-x")); err != nil {
		return nil, err
	}
	req, err := c.Request(fs, fs.Arg(0), fs.Args()[1:])
	if err != nil {
		return nil, err
	}
	return json.Marshal(req)
}

// send parses a command line and returns what moby's client asks the daemon for, which has its own say in it.
func send(t *testing.T, args []string) ([]byte, error) {
	t.Helper()
	text, err := request(args)
	if err != nil {
		return nil, err
	}
	var req container.CreateRequest
	if err := json.Unmarshal(text, &req); err != nil {
		t.Fatal(err)
	}
	rec, addr := record(t)
	c, err := client.New(client.WithHost(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Config: req.Config, HostConfig: req.HostConfig, NetworkingConfig: req.NetworkingConfig,
	})
	return rec.body, err
}

// A recorder answers as far as `docker create` needs and keeps the request for the container.
type recorder struct{ body []byte }

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Api-Version", "1.50")
	w.Header().Set("Ostype", "linux")
	switch {
	case strings.HasSuffix(req.URL.Path, "/_ping"):
	case strings.HasSuffix(req.URL.Path, "/containers/create"):
		r.body, _ = io.ReadAll(req.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"Id":"0123456789ab","Warnings":[]}`)
	default:
		http.NotFound(w, req)
	}
}

// record starts a recorder, and returns it and its address.
func record(t *testing.T) (*recorder, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rs") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: rec}}
	srv.Start()
	t.Cleanup(srv.Close)
	return rec, "unix://" + l.Addr().String()
}

// docker runs `docker create` with args and returns what it has asked for, or what it said was wrong.
func docker(t *testing.T, args []string) ([]byte, string) {
	t.Helper()
	rec, addr := record(t)
	cmd := exec.Command("docker", append(append([]string{"create"}, args...), "image", "command", "-x")...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+addr, "DOCKER_CONFIG="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, string(out)
	}
	return rec.body, ""
}

// normal makes requests of two versions of the API comparable: what is null, empty or zero is the same as what is not there,
// and some lists are sets.
func normal(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			switch x := normal(x).(type) {
			case nil:
			case []any:
				if k == "Env" || k == "Binds" || k == "Ulimits" {
					slices.SortFunc(x, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
				}
				out[k] = x
			default:
				out[k] = x
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		var out []any
		for _, x := range v {
			out = append(out, normal(x))
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	case float64:
		if v == 0 {
			return nil
		}
	}
	return v
}

func decode(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}

// TestRequestsAreDockers checks that the stock docker client, given the same flags, asks the daemon for the same.
func TestRequestsAreDockers(t *testing.T) {
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("docker is not on PATH")
	}
	dir := files(t)
	for _, line := range cases {
		args := words(line, dir)
		want, complaint := docker(t, args)
		if complaint != "" {
			t.Errorf("%s: docker says: %s", line, complaint)
			continue
		}
		got, err := send(t, args)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		w := decode(t, want)
		// Up to version 1.44 the address was the container's and not the endpoint's.
		delete(w, "MacAddress")
		if diff := cmp.Diff(normal(w), normal(decode(t, got))); diff != "" {
			t.Errorf("%s: docker (-) and boxbuild (+) ask for:\n%s", line, diff)
		}
	}
}

// TestRefusedAreDockers checks that what is wrong with a command line is what docker finds wrong with it.
func TestRefusedAreDockers(t *testing.T) {
	_, err := exec.LookPath("docker")
	dir := files(t)
	for line, text := range refusedHere {
		if _, rerr := request(words(line, dir)); rerr == nil || !strings.Contains(rerr.Error(), text) {
			t.Errorf("%s: got error %v, want %q", line, rerr, text)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(refused)) {
		args := words(line, dir)
		if _, rerr := request(args); rerr == nil || !strings.Contains(rerr.Error(), refused[line]) {
			t.Errorf("%s: got error %v, want %q", line, rerr, refused[line])
		}
		if err != nil {
			continue // there is no docker to ask
		}
		if _, complaint := docker(t, args); !strings.Contains(strings.ToLower(complaint), strings.ToLower(refused[line])) {
			t.Errorf("%s: docker says %q, not %q", line, complaint, refused[line])
		}
	}
}

// TestEveryFlagHasACase checks that no flag of the commands is without a command line above.
func TestEveryFlagHasACase(t *testing.T) {
	var c Create
	fs := pflag.NewFlagSet("create", pflag.ContinueOnError)
	c.Register(fs)
	all := strings.Join(append(slices.Concat(cases, slices.Collect(maps.Keys(refusedHere))), " "), " ") + " "
	fs.VisitAll(func(f *pflag.Flag) {
		switch f.Name {
		case "disable-content-trust", "umask": // docker 28 does not know umask
			return
		}
		long, short := "--"+f.Name, "-"+f.Shorthand
		for _, end := range []string{" ", "="} {
			if strings.Contains(" "+all, " "+long+end) || f.Shorthand != "" && strings.Contains(" "+all, " "+short+end) {
				return
			}
		}
		t.Errorf("no case has --%s", f.Name)
	})
}

// TestUpdate checks that update asks for what its flags say and for nothing else, since the daemon changes what is not zero.
func TestUpdate(t *testing.T) {
	for line, want := range map[string]string{
		"--blkio-weight 300":                   `{"BlkioWeight":300}`,
		"--cpu-period 1000 --cpu-quota 500":    `{"CpuPeriod":1000,"CpuQuota":500}`,
		"--cpu-rt-period 5 --cpu-rt-runtime 4": `{"CpuRealtimePeriod":5,"CpuRealtimeRuntime":4}`,
		"-c 2 --cpus 0.5":                      `{"CpuShares":2,"NanoCpus":500000000}`,
		"--cpuset-cpus 0 --cpuset-mems 1":      `{"CpusetCpus":"0","CpusetMems":"1"}`,
		"-m 64m --memory-reservation 1m":       `{"Memory":67108864,"MemoryReservation":1048576}`,
		"--memory-swap -1":                     `{"MemorySwap":-1}`,
		"--pids-limit 9":                       `{"PidsLimit":9}`,
		"--restart on-failure:2":               `{"RestartPolicy":{"MaximumRetryCount":2,"Name":"on-failure"}}`,
	} {
		var u Update
		fs := pflag.NewFlagSet("update", pflag.ContinueOnError)
		u.Register(fs)
		if err := fs.Parse(strings.Fields(line)); err != nil {
			t.Fatal(err)
		}
		req, err := u.Request(fs)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(normal(decode(t, []byte(want))), normal(decode(t, text))); diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
	}
	var u Update
	fs := pflag.NewFlagSet("update", pflag.ContinueOnError)
	u.Register(fs)
	fs.String("addr", "", "") // one of the program's own
	if err := fs.Parse([]string{"--addr", "x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Request(fs); err == nil {
		t.Error("an update of nothing is taken")
	}
}
