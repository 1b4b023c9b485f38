package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/worker"
)

// A client negotiates the version, and learns what is here.
func TestPing(t *testing.T) {
	w := serve(t)
	cli := w.client()
	got, err := cli.Ping(t.Context(), client.PingOptions{NegotiateAPIVersion: true})
	if err != nil || got.APIVersion != "1.56" || got.OSType != "linux" || got.BuilderVersion != "2" || got.SwarmStatus == nil || got.SwarmStatus.NodeState != "inactive" {
		t.Errorf("%+v, %v", got, err)
	}
	if v := cli.ClientVersion(); v != "1.56" {
		t.Errorf("they speak %s", v)
	}
	if x := w.send("HEAD /_ping", ""); x.code != 200 || x.body != "" || x.header.Get("Cache-Control") == "" || x.header.Get("Api-Version") != "1.56" {
		t.Errorf("%+v", x)
	}
	v, err := cli.ServerVersion(t.Context(), client.ServerVersionOptions{})
	if err != nil || v.Version != "1.2.3" || v.MinAPIVersion != "1.24" || v.Components[0].Details["GitCommit"] != "abc" || v.Components[0].Details["KernelVersion"] != "6.1" {
		t.Errorf("%+v, %v", v, err)
	}
}

// The daemon's word on itself counts what it has, and has the fields that a client's version knows.
func TestInfo(t *testing.T) {
	var counted []string
	w := serve(t, func(o *Options) {
		o.ID = "id"
		o.HostInfo = func(function string, _ time.Duration) { counted = append(counted, function) }
		o.Info = func(context.Context) *system.Info {
			return &system.Info{
				Name: "host", FirewallBackend: &system.FirewallInfo{Driver: "nftables"}, RuncCommit: system.Commit{ID: "runc"},
				Runtimes: map[string]system.RuntimeWithStatus{"r": {Status: map[string]string{"s": "t"}}},
			}
		}
	})
	w.begin(w.create(worker.ContainerCreate{}, "sleep"))
	paused := w.create(worker.ContainerCreate{}, "sleep")
	w.begin(paused)
	if err := w.containers.Pause(t.Context(), paused); err != nil {
		t.Fatal(err)
	}
	w.create(worker.ContainerCreate{})
	got, err := w.client().Info(t.Context(), client.InfoOptions{})
	i := got.Info
	if err != nil || i.ID != "id" || i.Name != "host" || i.ServerVersion != "1.2.3" || i.Containers != 3 || i.ContainersRunning != 1 ||
		i.ContainersPaused != 1 || i.ContainersStopped != 1 || i.Images != 1 || i.FirewallBackend == nil || i.Runtimes["r"].Status == nil {
		t.Errorf("%+v, %v", i, err)
	}
	has := func(version, part string, want bool) {
		t.Helper()
		if x := w.send("GET /"+version+"/info", ""); strings.Contains(x.body, part) != want {
			t.Errorf("%s: %q is there: %v\n%s", version, part, !want, x.body)
		}
	}
	has("v1.56", "BridgeNfIptables", false)
	has("v1.49", `"BridgeNfIptables":false`, true)
	has("v1.48", "FirewallBackend", false)
	has("v1.48", `"RuncCommit":{"Expected":"runc","ID":"runc"}`, true)
	has("v1.49", `"RuncCommit":{"ID":"runc"}`, true)
	has("v1.43", `"status"`, false)
	has("v1.41", `"KernelMemory":false`, true)
	has("v1.42", `"KernelMemory"`, false)
	has("v1.40", `"KernelMemoryTCP":false`, true)
	has("v1.39", `"KernelMemoryTCP"`, false)
	counted = nil
	w.send("GET /info", "")
	w.send("GET /version", "")
	if !slices.Equal(counted, []string{"system_info", "system_version"}) {
		t.Errorf("counted were %q", counted)
	}
}

// Events come as they happen, filtered, in the form that a client asks for, and those of the past up to a time.
func TestEvents(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	got := cli.Events(ctx, client.EventsListOptions{Since: "1", Filters: client.Filters{}.Add("type", "container").Add("event", "start", "die")})
	id := w.create(worker.ContainerCreate{Name: "ev"}, "true")
	w.begin(id)
	for _, want := range []events.Action{events.ActionStart, events.ActionDie} {
		select {
		case m := <-got.Messages:
			if m.Action != want || m.Actor.ID != id || m.Actor.Attributes["name"] != "ev" || m.Scope != "local" || m.TimeNano == 0 {
				t.Errorf("%+v, want %s", m, want)
			}
		case err := <-got.Err:
			t.Fatal(err)
		}
	}
	stop()
	past := "GET /events?since=1&until=" + time.Now().Add(-time.Nanosecond).Format("2006-01-02T15:04:05.999999999Z07:00")
	past = strings.ReplaceAll(past, "+", "%2B")
	for _, tt := range []struct{ accept, kind, prefix string }{
		{"application/jsonl", "application/jsonl", "{"},
		{"text/plain, application/x-ndjson;q=0.9", "application/x-ndjson", "{"},
		{"application/json-seq", "application/json-seq", "\x1e{"},
		{"application/jsonl;q=0, application/json-seq;q=0.1", "application/json-seq", "\x1e{"},
		{"*/*", "application/json", "{"},
	} {
		x := w.send(past, "", "Accept: "+tt.accept)
		if x.code != 200 || x.header.Get("Content-Type") != tt.kind || !strings.HasPrefix(x.body, tt.prefix) || !strings.Contains(x.body, `"Action":"create"`) {
			t.Errorf("%s: %d %s %q", tt.accept, x.code, x.header.Get("Content-Type"), x.body)
		}
	}
	old := w.send(strings.Replace(past, "/events", "/v1.51/events", 1), "", "Accept: application/jsonl")
	if old.header.Get("Content-Type") != "application/json" || !strings.Contains(old.body, `{"status":"create","id":"`+id+`","from":"busybox","Type":"container"`) {
		t.Errorf("%v %q", old.header, old.body)
	}
	w.events.Publish(events.Message{Type: events.ImageEventType, Action: events.ActionCreate, TimeNano: 1e9})
	if x := w.send("GET /v1.45/events?since=1&until=2", ""); x.body != "" {
		t.Errorf("an event that is newer than the client: %q", x.body)
	}
	w.want("GET /events?since=2&until=1", "", 400, "cannot be after")
	w.want("GET /events?since=x", "", 400, "it is no time")
	w.want(`GET /events?filters={"x":["y"]}`, "", 400, "invalid filter 'x'")
}

// What is kept is summed up; old clients get lists.
func TestDiskUsage(t *testing.T) {
	w := serve(t)
	w.begin(w.create(worker.ContainerCreate{}, "sleep"))
	w.create(worker.ContainerCreate{})
	cli, ctx := w.client(), t.Context()
	if _, err := cli.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "v"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client.Client{cli, w.client("1.51")} {
		du, err := c.DiskUsage(ctx, client.DiskUsageOptions{Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		if u := du.Containers; u.TotalCount != 2 || u.ActiveCount != 1 || u.TotalSize != 20 || u.Reclaimable != 10 || len(u.Items) != 2 {
			t.Errorf("%s: containers %+v", c.ClientVersion(), u)
		}
		if u := du.Volumes; u.TotalCount != 1 || u.TotalSize != 100 || u.Reclaimable != 100 || len(u.Items) != 1 {
			t.Errorf("%s: volumes %+v", c.ClientVersion(), u)
		}
		if u := du.BuildCache; u.TotalCount != 2 || len(u.Items) != 2 || u.Items[0].ID != "abcdefghijklmnop" || u.Items[0].LastUsedAt == nil {
			t.Errorf("%s: cache %+v", c.ClientVersion(), u)
		}
		if u := du.Images; u.TotalCount != 1 || len(u.Items) != 1 || u.Items[0].Containers != 2 {
			t.Errorf("%s: images %+v", c.ClientVersion(), u)
		}
	}
	brief := w.want("GET /system/df?type=volume", "", 200, `{"VolumeUsage":{"Reclaimable":100,"TotalCount":1,"TotalSize":100}}`)
	if strings.Contains(brief.body, "Image") {
		t.Error(brief.body)
	}
	both := decode[map[string]any](t, w.send("GET /v1.52/system/df", "").body)
	for _, key := range []string{"LayersSize", "Images", "Containers", "Volumes", "BuildCache", "ImageUsage", "ContainerUsage"} {
		if both[key] == nil {
			t.Errorf("1.52 lacks %s: %v", key, both)
		}
	}
	if u := both["ContainerUsage"].(map[string]any); u["Items"] != nil || u["TotalCount"] != 2.0 || len(both["Containers"].([]any)) != 2 {
		t.Errorf("1.52: %v", both)
	}
	for _, path := range []string{"/v1.52/system/df?verbose=1", "/v1.53/system/df"} {
		if x := w.send("GET "+path, ""); strings.Contains(x.body, "LayersSize") {
			t.Errorf("%s has the old fields: %s", path, x.body)
		}
	}
	w.want("GET /system/df?type=x", "", 400, "unknown object type: x")
	w.want("GET /v1.41/system/df?type=x", "", 200, `"BuilderSize":3000`)
}

func TestAuth(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	got, err := cli.RegistryLogin(ctx, client.RegistryLoginOptions{Username: "alice", Password: "secret", ServerAddress: "https://index.docker.io/v1/"})
	if err != nil || got.Auth.Status != "Login Succeeded" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, body := range []string{"", "null"} { // no registry is asked about nobody
		w.want("POST /auth", body, 400, "invalid JSON: got EOF while reading request body")
	}
	w.want("POST /auth", `{"username":"alice","password":"wrong","serveraddress":"r.example:5000"}`, 401, `Get \"https://r.example:5000/v2/\": not authorized`)
	for in, want := range map[string]string{
		"": "docker.io", "https://index.docker.io/v1/": "docker.io", "http://r:5000": "r:5000", "r/x": "r", "docker.io": "docker.io",
	} {
		if got := registryHost(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// A search passes on what matches; a daemon that cannot search says so.
func TestSearch(t *testing.T) {
	var asked string
	w := serve(t, func(o *Options) {
		o.Search = func(_ context.Context, host, term string, limit int) ([]registry.Found, error) {
			if host == "none.example" {
				return nil, registry.ErrNotFound
			}
			asked = host + " " + term
			return []registry.Found{{Name: "a", Official: true, Stars: 5}, {Name: "b", Stars: 1}}[:min(limit, 2)], nil
		}
	})
	names := func(f client.Filters) string {
		t.Helper()
		res, err := w.client().ImageSearch(t.Context(), "box", client.ImageSearchOptions{Filters: f, RegistryAuth: alice(t)})
		if err != nil {
			t.Fatal(err)
		}
		var out string
		for _, r := range res.Items {
			out += r.Name
		}
		return out
	}
	if got := names(nil); got != "ab" || asked != "docker.io box" {
		t.Errorf("%q %q", got, asked)
	}
	for value, want := range map[string]string{"is-official=true": "a", "is-official=false": "b", "stars=2": "a", "is-automated=true": ""} {
		key, v, _ := strings.Cut(value, "=")
		if got := names(client.Filters{}.Add(key, v)); got != want {
			t.Errorf("%s: %q", value, got)
		}
	}
	w.want("GET /images/search?term=r.example:5000/x/y", "", 200, `"name":"r.example:5000/a"`)
	if asked != "r.example:5000 x/y" {
		t.Errorf("asked for %q", asked)
	}
	w.want("GET /images/search?term=none.example/x", "", 501, "registry none.example offers no search")
	w.want("GET /images/search", "", 400, "empty")
	w.want("GET /images/search?term=x&limit=101", "", 400, "outside the range of [1, 100]")
	w.want(`GET /images/search?term=x&filters={"stars":["-1"]}`, "", 400, "invalid filter 'stars=-1'")
	serve(t).want("GET /images/search?term=x", "", 501, "searches no registries")
}

// A daemon without containers says so where they are needed, and has none elsewhere.
func TestNoContainers(t *testing.T) {
	w := serve(t, func(o *Options) { o.Containers, o.Volumes, o.Networks = nil, nil, nil })
	for _, request := range []string{"GET /containers/json", "GET /networks", "GET /volumes", "GET /info", "GET /system/df", "GET /images/json"} {
		w.want(request, "", 200, "")
	}
	for _, request := range []string{
		"POST /containers/create", "POST /containers/x/start", "GET /containers/x/json", "POST /containers/x/attach", "GET /containers/x/logs?stdout=1",
		"POST /commit?container=x", "GET /volumes/x", "GET /networks/x", "POST /containers/x/exec", "GET /exec/x/json", "GET /containers/x/stats",
	} {
		w.want(request, `{"Image":"x"}`[:0], 501, "runs no containers")
	}
}

// A request of an old client means what it meant.
func TestAdapt(t *testing.T) {
	w := serve(t)
	w.image("busybox")
	make := func(version, body string) *container.InspectResponse {
		t.Helper()
		x := w.want("POST /"+version+"/containers/create", body, http.StatusCreated, `"Warnings":[]`)
		got, err := w.containers.Inspect(t.Context(), decode[container.CreateResponse](t, x.body).ID, false)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	old := make("v1.39", `{"Image":"busybox","MacAddress":"02:00:00:00:00:01","Healthcheck":{"StartInterval":5},"HostConfig":{"Annotations":{"a":"b"},
		"ConsoleSize":[1,2],"Mounts":[{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true,"VolumeOptions":{},"BindOptions":{"NonRecursive":true}}]}}`)
	h := old.HostConfig
	if h.IpcMode != "shareable" || h.Annotations != nil || h.ConsoleSize != [2]uint{} || h.NetworkMode != "bridge" || old.Config.Healthcheck.StartInterval != 0 {
		t.Errorf("%+v", h)
	}
	if m := h.Mounts[0]; m.VolumeOptions != nil || m.BindOptions.NonRecursive || !m.BindOptions.ReadOnlyNonRecursive {
		t.Errorf("%+v", m)
	}
	if ep := old.NetworkSettings.Networks["bridge"]; ep == nil || ep.MacAddress.String() != "02:00:00:00:00:01" {
		t.Errorf("%+v", ep)
	}
	now := make("v1.56", `{"Image":"busybox","MacAddress":"02:00:00:00:00:01","HostConfig":{"Annotations":{"a":"b"},"NetworkMode":"default"},
		"NetworkingConfig":{"EndpointsConfig":{"default":{"Aliases":["x"]}}}}`)
	if ep := now.NetworkSettings.Networks["bridge"]; ep == nil || ep.MacAddress != nil || !slices.Equal(ep.Aliases, []string{"x"}) || now.HostConfig.Annotations == nil {
		t.Errorf("%+v %+v", ep, now.HostConfig)
	}
	for body, part := range map[string]string{
		`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","VolumeOptions":{}}]}}`:  `VolumeOptions must not be specified on mount type \"bind\"`,
		`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"volume","TmpfsOptions":{}}]}}`: "TmpfsOptions must not",
		`{"Image":"busybox","HostConfig":{"NetworkMode":5}}`:                                "invalid JSON",
		`{"Image":"busybox","HostConfig":{"PortBindings":{"x":[]}}}`:                        "invalid JSON",
		`{"HostConfig":{}}`: "config cannot be empty",
	} {
		w.want("POST /containers/create", body, 400, part)
	}
	w.want("POST /v1.43/containers/create", `{"Image":"busybox","NetworkingConfig":{"EndpointsConfig":{"a":{},"b":{}}}}`, 400, "multiple network endpoints: a, b")
	w.want("POST /v1.43/containers/create", `{"Image":"busybox","MacAddress":"x"}`, 400, "invalid MAC address: x")
	w.want("POST /v1.43/containers/create", `{"Image":"busybox","MacAddress":"02:00:00:00:00:01","HostConfig":{"NetworkMode":"host"}}`, 400, "conflicting options")
	w.want("POST /containers/create?platform=a/b/c/d", `{"Image":"busybox"}`, 400, "a/b/c/d")
}

// A container looks to every client as if there were but the default network, and has all that one has ever had.
func TestOldContainer(t *testing.T) {
	w := serve(t)
	id := w.create(worker.ContainerCreate{Name: "old"}, "sleep")
	var got struct {
		ID              string `json:"Id"`
		Config          map[string]json.RawMessage
		NetworkSettings map[string]json.RawMessage
	}
	look := func(version string) {
		t.Helper()
		got.Config, got.NetworkSettings = nil, nil
		x := w.want("GET /"+version+"/containers/old/json?size=1", "", 200, `"SizeRw":10`)
		if err := json.Unmarshal([]byte(x.body), &got); err != nil || got.ID != id {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	for _, version := range []string{"v1.24", "v1.41", "v1.42", "v1.51", "v1.52", "v1.56"} {
		look(version)
		if ip := string(got.NetworkSettings["IPAddress"]); ip != `"172.17.0.2"` || got.NetworkSettings["Networks"] == nil ||
			got.NetworkSettings["Ports"] == nil || got.NetworkSettings["HairpinMode"] == nil || got.Config["OnBuild"] == nil {
			t.Errorf("%s: %s, %s", version, got.NetworkSettings, got.Config)
		}
		if h := w.want("GET /"+version+"/containers/old/json", "", 200, `"KernelMemory":0,"KernelMemoryTCP":0`); !strings.Contains(h.body, `"NetworkMode"`) {
			t.Errorf("%s: %s", version, h.body)
		}
	}
	if _, ok := got.Config["MacAddress"]; ok {
		t.Error("a MAC address")
	}
	look("v1.43")
	if mac := string(got.Config["MacAddress"]); mac != `"02:42:ac:11:00:02"` {
		t.Errorf("MAC address %s", mac)
	}
}

// Times are seconds with decimals, as clients send them.
func TestParseInstant(t *testing.T) {
	for in, want := range map[string]time.Time{
		"": {}, "1": time.Unix(1, 0), "1.5": time.Unix(1, 5e8), "1.000000001": time.Unix(1, 1), "1.0000000019": time.Unix(1, 1),
		"1970-01-01T00:00:02Z": time.Unix(2, 0),
	} {
		if got, err := parseInstant(in); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"x", "1.x", "1.-5", "1970"[:0] + "yesterday"} {
		if got, err := parseInstant(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

// Whatever comes as a request, the answer is one: no panic, and JSON if it is an error.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/v1.56/containers/json?filters={}", "", "application/json")
	f.Add("POST", "/containers/create?name=x&platform=linux", `{"Image":"x","HostConfig":{"Mounts":[null]}}`, "application/json")
	f.Add("POST", "/build?buildargs={}&ulimits=[null]&extrahosts=a:b&t=x", "body", "application/x-tar")
	f.Add("POST", "/containers/x/update", `{"PidsLimit":-1}`, "application/json")
	f.Add("POST", "/networks/a/connect", `{"EndpointConfig":null}`, "application/json")
	f.Add("POST", "/images/create?fromImage=%ff&tag=x", "", "")
	f.Add("GET", "/images/a%2fb/json?platform={}", "", "")
	f.Add("DELETE", "/images/%00", "", "text/plain")
	f.Add("POST", "/exec/x/start", "null", "application/json")
	f.Add("POST", "/volumes/create", `{"ClusterVolumeSpec":{}}`, "application/json;")
	f.Fuzz(func(t *testing.T, method, path, body, kind string) {
		if strings.Contains(path, "events") || strings.Contains(path, "fromSrc") || strings.Contains(path, "remote") || strings.Contains(body, "remote") {
			return // which would not end, or would ask others
		}
		req, err := http.NewRequestWithContext(t.Context(), method, "http://d"+path, strings.NewReader(body))
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		req.Header.Set("Content-Type", kind)
		w := serveFuzz(t)
		rec := &recorder{header: http.Header{}}
		w.ServeHTTP(rec, req)
		if rec.code >= 400 && rec.code != 404 || rec.code == 500 {
			var m struct{ Message string }
			if err := json.Unmarshal(rec.body.Bytes(), &m); method != http.MethodHead && (err != nil || m.Message == "") {
				t.Errorf("%s %s: %d %q", method, path, rec.code, rec.body.String())
			}
			if strings.Contains(m.Message, "error of its own") {
				t.Errorf("%s %s %q panics", method, path, body)
			}
		}
	})
}

// recorder is an answer without a connection.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}
