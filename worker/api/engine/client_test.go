package engine

import (
	"archive/tar"
	"bytes"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"

	"github.com/boxbuild/boxbuild/worker"
)

// A container's whole life, as docker's own client sees it.
func TestLife(t *testing.T) {
	w := serve(t)
	w.image("busybox")
	cli, ctx := w.client(), t.Context()
	if _, err := cli.ContainerCreate(ctx, client.ContainerCreateOptions{Config: &container.Config{Image: "none"}}); !errdefs.IsNotFound(err) ||
		!strings.Contains(err.Error(), "No such image: none") {
		t.Errorf("of no image: %v", err)
	}
	made, err := cli.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name: "life", Config: &container.Config{Image: "busybox", Cmd: []string{"sleep"}, Labels: map[string]string{"a": "b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "life", Config: &container.Config{Image: "busybox"}}); !errdefs.IsConflict(err) {
		t.Errorf("a name twice: %v", err)
	}
	waiting := cli.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	state := func(want container.ContainerState) {
		t.Helper()
		got, err := cli.ContainerInspect(ctx, "life", client.ContainerInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Container.State.Status != want {
			t.Errorf("it is %s, want %s", got.Container.State.Status, want)
		}
	}
	state(container.StateCreated)
	for _, step := range []struct {
		do   func() error
		want container.ContainerState
	}{
		{func() error { _, err := cli.ContainerStart(ctx, "life", client.ContainerStartOptions{}); return err }, container.StateRunning},
		{func() error { _, err := cli.ContainerStart(ctx, "life", client.ContainerStartOptions{}); return err }, container.StateRunning},
		{func() error { _, err := cli.ContainerPause(ctx, "life", client.ContainerPauseOptions{}); return err }, container.StatePaused},
		{func() error {
			_, err := cli.ContainerUnpause(ctx, "life", client.ContainerUnpauseOptions{})
			return err
		}, container.StateRunning},
		{func() error {
			_, err := cli.ContainerRestart(ctx, "life", client.ContainerRestartOptions{})
			return err
		}, container.StateRunning},
		{func() error {
			_, err := cli.ContainerStop(ctx, "life", client.ContainerStopOptions{Signal: "SIGINT"})
			return err
		}, container.StateExited},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		state(step.want)
	}
	if res := <-waiting.Result; res.StatusCode != 143 {
		t.Errorf("the first end was %d", res.StatusCode)
	}
	list, err := cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", "a=b")})
	if err != nil || len(list.Items) != 1 || list.Items[0].Names[0] != "/life" || !strings.HasPrefix(list.Items[0].Status, "Exited (130)") {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := cli.ContainerRename(ctx, "life", client.ContainerRenameOptions{NewName: "after"}); err != nil {
		t.Error(err)
	}
	if _, err := cli.ContainerUpdate(ctx, "after", client.ContainerUpdateOptions{Resources: &container.Resources{Memory: 1 << 30}}); err != nil {
		t.Error(err)
	}
	got, err := cli.ContainerInspect(ctx, "after", client.ContainerInspectOptions{Size: true})
	if err != nil || got.Container.HostConfig.Memory != 1<<30 || got.Container.SizeRw == nil {
		t.Errorf("%+v, %v", got.Container.HostConfig, err)
	}
	removed := cli.ContainerWait(ctx, "after", client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
	if _, err := cli.ContainerRemove(ctx, "after", client.ContainerRemoveOptions{}); err != nil {
		t.Error(err)
	}
	select {
	case res := <-removed.Result:
		if res.StatusCode != 130 {
			t.Errorf("removed: %d", res.StatusCode)
		}
	case err := <-removed.Error:
		t.Error(err)
	}
	w.create(worker.ContainerCreate{})
	rep, err := cli.ContainerPrune(ctx, client.ContainerPruneOptions{})
	if err != nil || len(rep.Report.ContainersDeleted) != 1 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// What is asked of a container that runs.
func TestLook(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	id := w.create(worker.ContainerCreate{Name: "look"}, "sleep")
	w.begin(id)
	top, err := cli.ContainerTop(ctx, id, client.ContainerTopOptions{})
	if err != nil || top.Processes[0][1] != "sleep # -ef" {
		t.Errorf("%+v, %v", top, err)
	}
	top, err = cli.ContainerTop(ctx, id, client.ContainerTopOptions{Arguments: []string{"-o", "pid"}})
	if err != nil || top.Processes[0][1] != "sleep # -o pid" {
		t.Errorf("%+v, %v", top, err)
	}
	var pack bytes.Buffer
	tw := tar.NewWriter(&pack)
	_ = tw.WriteHeader(&tar.Header{Name: "new", Mode: 0o600, Size: 3})
	_, _ = tw.Write([]byte("new"))
	_ = tw.Close()
	if _, err := cli.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/dir", Content: &pack}); err != nil {
		t.Error(err)
	}
	st, err := cli.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: "/dir/new"})
	if err != nil || st.Stat.Name != "new" || st.Stat.Size != 3 {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := cli.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: "/none"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	from, err := cli.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: "/dir/new"})
	if err != nil || from.Stat.Name != "new" {
		t.Fatalf("%+v, %v", from, err)
	}
	if got := untar(t, from.Content); got != "new=new" {
		t.Error(got)
	}
	diff, err := cli.ContainerDiff(ctx, id, client.ContainerDiffOptions{})
	if err != nil || len(diff.Changes) != 1 || diff.Changes[0].Path != "/dir/new" {
		t.Errorf("%+v, %v", diff, err)
	}
	all, err := cli.ContainerExport(ctx, id, client.ContainerExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := untar(t, all); got != "dir/new=new etc/hostname=fake\n" {
		t.Errorf("%q", got)
	}
	made, err := cli.ContainerCommit(ctx, id, client.ContainerCommitOptions{Reference: "made:1", Changes: []string{"CMD x"}})
	if err != nil {
		t.Fatal(err)
	}
	if img, err := cli.ImageInspect(ctx, "made:1"); err != nil || img.ID != made.ID || img.Config.Cmd[2] != "x" {
		t.Errorf("%+v, %v", img, err)
	}
}

func untar(t *testing.T, r io.ReadCloser) string {
	t.Helper()
	defer r.Close()
	var out []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF { //nolint:errorlint // tar returns it bare
			return strings.Join(out, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name+"="+string(b))
	}
}

// Logs come in frames, or as they are from a terminal, and say which they are.
func TestLogs(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	id := w.create(worker.ContainerCreate{Name: "logs"}, "complain", "oh", "no")
	w.begin(id)
	res := cli.ContainerWait(ctx, id, client.ContainerWaitOptions{})
	<-res.Result
	for _, tt := range []struct {
		opt      client.ContainerLogsOptions
		out, err string
	}{
		{client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}, "", "oh no\n"},
		{client.ContainerLogsOptions{ShowStdout: true}, "", ""},
		{client.ContainerLogsOptions{ShowStderr: true, Tail: "0"}, "", ""},
		{client.ContainerLogsOptions{ShowStderr: true, Tail: "all", Follow: true}, "", "oh no\n"},
		{client.ContainerLogsOptions{ShowStderr: true, Until: "1000.5"}, "", ""},
		{client.ContainerLogsOptions{ShowStderr: true, Since: "1000.5"}, "", "oh no\n"},
	} {
		r, err := cli.ContainerLogs(ctx, "logs", tt.opt)
		if err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		_, err = stdcopy.StdCopy(&out, &errs, r)
		if err != nil || out.String() != tt.out || errs.String() != tt.err {
			t.Errorf("%+v: %q %q %v", tt.opt, out.String(), errs.String(), err)
		}
	}
	if got := w.send("GET /containers/logs/logs?stderr=1", ""); got.header.Get("Content-Type") != "application/vnd.docker.multiplexed-stream" {
		t.Error(got.header)
	}
	if got := w.send("GET /v1.41/containers/logs/logs?stderr=1", ""); got.header.Get("Content-Type") != "application/vnd.docker.raw-stream" {
		t.Error(got.header)
	}
	w.want("GET /containers/logs/logs", "", 400, "you must choose at least one stream")
	w.want("GET /containers/logs/logs?stdout=1&since=x", "", 400, "invalid value")
	w.create(worker.ContainerCreate{Name: "tty", CreateRequest: container.CreateRequest{Config: &container.Config{Tty: true}}}, "echo", "hi")
	w.begin("tty")
	<-cli.ContainerWait(ctx, "tty", client.ContainerWaitOptions{}).Result
	if got := w.send("GET /containers/tty/logs?stdout=1", ""); got.body != "hi\n" || got.header.Get("Content-Type") != "application/vnd.docker.raw-stream" {
		t.Errorf("%q %v", got.body, got.header)
	}
	w.create(worker.ContainerCreate{Name: "none", CreateRequest: container.CreateRequest{
		HostConfig: &container.HostConfig{LogConfig: container.LogConfig{Type: "none"}},
	}}, "echo", "hi")
	w.want("GET /containers/none/logs?stdout=1&follow=1", "", 501, "configured logging driver does not support reading")
}

// A sample that is to be of use for the CPU has another one before it; a stream has one at once.
func TestStats(t *testing.T) {
	w := serve(t)
	id := w.create(worker.ContainerCreate{Name: "stats"}, "sleep")
	w.begin(id)
	x := w.want("GET /containers/stats/stats?stream=0&one-shot=1", "", 200, `"precpu_stats":{"cpu_usage":{"total_usage":0`)
	if got := decode[container.StatsResponse](t, x.body); got.ID != id || got.CPUStats.CPUUsage.TotalUsage == 0 || got.OSType != "linux" {
		t.Errorf("%+v", got)
	}
	cli := w.client()
	res, err := cli.ContainerStats(t.Context(), "stats", client.ContainerStatsOptions{Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := res.Body.Read(b); err != nil || b[0] != '{' {
		t.Errorf("%q, %v", b, err)
	}
	_ = res.Body.Close()
	w.want("GET /containers/none/stats", "", 404, "No such container")
}

func TestVolumes(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	made, err := cli.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "vol", Labels: map[string]string{"a": "b"}})
	if err != nil || made.Volume.Mountpoint != "/volumes/vol" {
		t.Fatalf("%+v, %v", made, err)
	}
	if got, err := cli.VolumeInspect(ctx, "vol", client.VolumeInspectOptions{}); err != nil || got.Volume.Labels["a"] != "b" {
		t.Errorf("%+v, %v", got, err)
	}
	if list, err := cli.VolumeList(ctx, client.VolumeListOptions{Filters: client.Filters{}.Add("name", "vo")}); err != nil || len(list.Items) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := cli.VolumeInspect(ctx, "none", client.VolumeInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := cli.VolumeCreate(ctx, client.VolumeCreateOptions{ClusterVolumeSpec: &volume.ClusterVolumeSpec{}}); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	if rep, err := cli.VolumePrune(ctx, client.VolumePruneOptions{}); err != nil || len(rep.Report.VolumesDeleted) != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	w.want("POST /v1.41/volumes/prune", "", 200, `"vol"`) // which prunes what has a name, too
	if _, err := cli.VolumeRemove(ctx, "vol", client.VolumeRemoveOptions{}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := cli.VolumeRemove(ctx, "vol", client.VolumeRemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
	w.want("PUT /volumes/x?version=1", "{}", 503, "only valid for cluster volumes")
}

func TestNetworks(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	made, err := cli.NetworkCreate(ctx, "net", client.NetworkCreateOptions{Driver: "bridge", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	mac := network.HardwareAddr{2, 0, 0, 0, 0, 1}
	if _, err := cli.NetworkConnect(ctx, "net", client.NetworkConnectOptions{
		Container: "ctr", EndpointConfig: &network.EndpointSettings{MacAddress: mac, IPAddress: netip.MustParseAddr("10.0.0.1")},
	}); err != nil {
		t.Error(err)
	}
	got, err := cli.NetworkInspect(ctx, made.ID, client.NetworkInspectOptions{})
	if err != nil || got.Network.Containers["ctr"].MacAddress.String() != mac.String() || got.Network.Status == nil {
		t.Errorf("%+v, %v", got, err)
	}
	old, err := w.client("1.51").NetworkInspect(ctx, made.ID, client.NetworkInspectOptions{})
	if err != nil || old.Network.Status != nil {
		t.Errorf("%+v, %v", old, err)
	}
	if _, err := cli.NetworkInspect(ctx, "net", client.NetworkInspectOptions{Scope: "swarm"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if list, err := cli.NetworkList(ctx, client.NetworkListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := cli.NetworkRemove(ctx, "net", client.NetworkRemoveOptions{}); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	if _, err := cli.NetworkDisconnect(ctx, "net", client.NetworkDisconnectOptions{Container: "ctr"}); err != nil {
		t.Error(err)
	}
	if rep, err := cli.NetworkPrune(ctx, client.NetworkPruneOptions{}); err != nil || !slices.Equal(rep.Report.NetworksDeleted, []string{"net"}) {
		t.Errorf("%+v, %v", rep, err)
	}
	if _, err := cli.NetworkCreate(ctx, "far", client.NetworkCreateOptions{Scope: "swarm"}); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
}
