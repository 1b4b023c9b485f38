package buildkit

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	dockerclient "github.com/moby/moby/client"
)

const cdiSpec = `{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [
{"name": "0", "containerEdits": {"env": ["GPU=zero"], "hooks": [
{"hookName": "createContainer", "path": "/usr/bin/busybox", "args": ["sh", "-c",
"b=$(sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/'); echo hooked >$b/rootfs/hooked"]}]}},
{"name": "all", "containerEdits": {"env": ["GPU=all"]}}]}`

// TestContainerDevices checks what moby's own client gets for the requests for devices that docker run and compose make: the
// devices, or docker's error; that inspect shows a request as it was given; and that info lists what there is.
func TestContainerDevices(t *testing.T) {
	dir := t.TempDir()
	d := start(t, "--cdi-spec-dir", dir)
	d.load()
	if _, err := os.Stat("/usr/bin/busybox"); err != nil {
		t.Skip("needs busybox-static")
	}
	docker, err := dockerclient.New(dockerclient.WithHost(d.addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	gpu := [][]string{{"gpu"}}
	for _, tc := range []struct {
		described bool
		req       container.DeviceRequest
		want      string // what the container says, or the error
	}{
		{false, container.DeviceRequest{Count: -1, Capabilities: gpu}, `could not select device driver "" with capabilities: [[gpu]]`},
		{false, container.DeviceRequest{Driver: "nvidia", Count: 1, Capabilities: gpu}, `could not select device driver "nvidia" with capabilities: [[gpu]]`},
		{false, container.DeviceRequest{Driver: "cdi", DeviceIDs: []string{"nvidia.com/gpu=0"}}, "unresolvable CDI devices nvidia.com/gpu=0"},
		{true, container.DeviceRequest{Count: -1, Capabilities: gpu}, "all"},
		{true, container.DeviceRequest{Driver: "nvidia", Count: 1, Capabilities: [][]string{{"tpu"}, {"gpu", "utility"}}}, "zero hooked"},
		{true, container.DeviceRequest{Driver: "nvidia", DeviceIDs: []string{"nvidia.com/gpu=0"}, Capabilities: gpu}, "zero hooked"},
		{true, container.DeviceRequest{Driver: "cdi", DeviceIDs: []string{"nvidia.com/gpu=0"}}, "zero hooked"},
		{true, container.DeviceRequest{Driver: "cdi", Count: 1}, "unexpected count in CDI device request"},
		{true, container.DeviceRequest{Count: 1, DeviceIDs: []string{"0"}, Capabilities: gpu}, "cannot set both Count and DeviceIDs on device request"},
		{true, container.DeviceRequest{Driver: "amd", Count: 1, Capabilities: gpu}, `could not select device driver "amd" with capabilities: [[gpu]]`},
	} {
		if tc.described {
			if err := os.WriteFile(filepath.Join(dir, "nvidia.json"), []byte(cdiSpec), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := runWith(t, docker, tc.req)
		if got != tc.want && !(strings.Contains(tc.want, " ") && strings.Contains(got, tc.want)) {
			t.Errorf("%+v: got %q, want %q", tc.req, got, tc.want)
		}
	}
	info, err := docker.Info(t.Context(), dockerclient.InfoOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, dev := range info.Info.DiscoveredDevices {
		names = append(names, dev.Source+" "+dev.ID)
	}
	if want := []string{"cdi nvidia.com/gpu=0", "cdi nvidia.com/gpu=all"}; !reflect.DeepEqual(names, want) || !reflect.DeepEqual(info.Info.CDISpecDirs, []string{dir}) {
		t.Errorf("info has %q of %q, want %q", names, info.Info.CDISpecDirs, want)
	}
}

// runWith returns what a container with that request says, or why it does not start.
func runWith(t *testing.T, docker *dockerclient.Client, req container.DeviceRequest) string {
	t.Helper()
	made, err := docker.ContainerCreate(t.Context(), dockerclient.ContainerCreateOptions{
		Config:     &container.Config{Image: "busybox", Cmd: []string{"sh", "-c", "echo $GPU $(cat /hooked 2>/dev/null)"}},
		HostConfig: &container.HostConfig{Resources: container.Resources{DeviceRequests: []container.DeviceRequest{req}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := docker.ContainerRemove(t.Context(), made.ID, dockerclient.ContainerRemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}()
	in, err := docker.ContainerInspect(t.Context(), made.ID, dockerclient.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := in.Container.HostConfig.DeviceRequests; len(got) != 1 || !reflect.DeepEqual(got[0], req) {
		t.Errorf("inspect shows %+v, want %+v", got, req)
	}
	wait := docker.ContainerWait(t.Context(), made.ID, dockerclient.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := docker.ContainerStart(t.Context(), made.ID, dockerclient.ContainerStartOptions{}); err != nil {
		return err.Error()
	}
	select {
	case err := <-wait.Error:
		t.Fatal(err)
	case <-wait.Result:
	}
	logs, err := docker.ContainerLogs(t.Context(), made.ID, dockerclient.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &out, logs); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}
