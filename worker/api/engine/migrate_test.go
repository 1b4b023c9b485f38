package engine

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// What older versions say of a container as a whole is moved to where it belongs, with a warning from the version on that
// has one, and refused where that cannot be done.
func TestMigrate(t *testing.T) {
	w := serve(t)
	w.image("busybox")
	const (
		driver   = "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'"
		mac      = "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
		bindings = "Following container port(s) have an empty list of port-bindings: 53/udp, 80/tcp."
		kernel   = "Your kernel does not support kernel memory"
		migrated = `Migrated sysctl "net.ipv4.conf.eth0.log_martians" to DriverOpts{"com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.log_martians=1"}.`

		volumes  = `"HostConfig":{"VolumeDriver":"local","Mounts":[{"Type":"volume","Target":"/v"}]}`
		address  = `"MacAddress":"02:00:00:00:00:01"`
		ports    = `"HostConfig":{"PortBindings":{"80/tcp":[],"53/udp":null}}`
		memory   = `"HostConfig":{"KernelMemory":5000000,"KernelMemoryTCP":5000000}`
		martians = `"HostConfig":{"Sysctls":{"net.ipv4.conf.eth0.log_martians":"1","net.ipv4.ip_forward":"0"}}`
	)
	for _, tt := range []struct {
		version, body string
		want          []string // beginnings of the warnings
	}{
		{"1.48", volumes, []string{driver}},
		{"1.47", volumes, nil},
		{"1.56", `"HostConfig":{"VolumeDriver":"local","Mounts":[{"Type":"volume","Target":"/v","VolumeOptions":{"DriverConfig":{"Name":"local"}}}]}`, nil},
		{"1.44", address, []string{mac}},
		{"1.51", address + `,"HostConfig":{"NetworkMode":"host"}`, []string{mac}},
		{"1.43", address, nil},
		{"1.52", address, nil},
		{"1.52", ports, []string{bindings}},
		{"1.51", ports, nil},
		{"1.41", memory, []string{kernel + " limit", kernel + " TCP limit"}},
		{"1.51", memory, []string{kernel + " TCP limit"}},
		{"1.39", memory, []string{kernel + " limit"}},
		{"1.52", memory, nil},
		{"1.47", martians, []string{migrated}},
		{"1.56", `"HostConfig":{"NetworkMode":"host","Sysctls":{"net.ipv4.conf.eth0.x":"1"}}`, nil}, // refused elsewhere
	} {
		x := w.want("POST /v"+tt.version+"/containers/create", `{"Image":"busybox",`+tt.body+`}`, 201, `"Warnings":[`)
		res := decode[container.CreateResponse](t, x.body)
		if !slices.EqualFunc(res.Warnings, tt.want, strings.HasPrefix) {
			t.Errorf("%s %s: %q, want %q", tt.version, tt.body, res.Warnings, tt.want)
		}
		got, err := w.containers.Inspect(t.Context(), res.ID, false)
		if err != nil {
			t.Fatal(err)
		}
		for port, list := range got.HostConfig.PortBindings {
			if len(list) != 1 {
				t.Errorf("%s: %s has %v", tt.version, port, list)
			}
		}
		if tt.body != martians {
			continue
		}
		if s := got.HostConfig.Sysctls; len(s) != 1 || s["net.ipv4.ip_forward"] != "0" {
			t.Errorf("parameters %v", s)
		}
	}
	for version, body := range map[string]string{
		"1.48": martians, "1.46": `"HostConfig":{"Sysctls":{"net.ipv4.conf.eth1.x":"1"}}`,
	} {
		w.want("POST /v"+version+"/containers/create", `{"Image":"busybox",`+body+`}`, 400, "com.docker.network.endpoint.sysctls")
	}
	w.want("POST /v1.44/containers/create", `{"Image":"busybox",`+address+`,"NetworkingConfig":{"EndpointsConfig":{"other":{}}}}`, 400,
		"HostConfig.NetworkMode must match the identity of a network")
	w.want("POST /v1.44/containers/create", `{"Image":"busybox",`+address+`,"NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"02:00:00:00:00:02"}}}}`,
		400, "the container-wide MAC address must match")
}

// The parameters of a container's interface go before those that its network has been given.
func TestMigrateSysctls(t *testing.T) {
	req := &worker.ContainerCreate{}
	in := decode[createRequest](t, `{"HostConfig":{"NetworkMode":"net","Sysctls":{"net.ipv4.conf.eth0.a":"1","net.ipv6.conf.eth0.b.c":"2"}},
		"NetworkingConfig":{"EndpointsConfig":{"0123":{"DriverOpts":{"com.docker.network.endpoint.sysctls":"own","x":"y"}}}}}`)
	req.CreateRequest = in.now
	if _, err := migrateSysctls(req, version{1, 43}); err != nil {
		t.Fatal(err)
	}
	got := req.NetworkingConfig.EndpointsConfig["0123"].DriverOpts
	if want := "net.ipv4.conf.IFNAME.a=1,net.ipv6.conf.IFNAME.b.c=2,own"; got[optSysctls] != want || got["x"] != "y" || len(req.HostConfig.Sysctls) != 0 {
		t.Errorf("%v, want %s", got, want)
	}
}

// Why credentials are not good is told of the address that was spoken to.
func TestLoginRefused(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&registry.StatusError{Scheme: "http", Host: "r:5000", Status: 401}, "login attempt to http://r:5000/v2/ failed with status: 401 Unauthorized"},
		{&registry.StatusError{Scheme: "https", Host: "tokens", Status: 401}, `Get "https://r:5000/v2/": unauthorized: incorrect username or password`},
		{&registry.StatusError{Host: "tokens", Status: 403, Message: "not you"}, `Get "https://r:5000/v2/": unauthorized: not you`},
		{&url.Error{Op: "Get", URL: "http://r:5000/v2/", Err: errors.New("refused")}, `Get "http://r:5000/v2/": refused`},
		{errors.New("odd"), `Get "https://r:5000/v2/": odd`},
	} {
		if got := loginRefused("r:5000", fmt.Errorf("reaching r:5000: %w", tt.err)); strings.TrimPrefix(got, "reaching r:5000: ") != tt.want &&
			!strings.HasSuffix(got, "odd") {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

// Images that others were committed from, and that have no name, are shown on request only; the filters that system prune
// sends for everything are no error of the cache.
func TestParentImages(t *testing.T) {
	list := []worker.ImageSummary{
		{ID: "sha256:base", Names: []string{"docker.io/library/base:1"}},
		{ID: "sha256:mid", Parent: "sha256:base"},
		{ID: "sha256:top", Parent: "sha256:mid"},
	}
	w := serve(t, func(o *Options) { o.Images = &listed{Images: o.Images, list: list} })
	ids := func(query string) string {
		t.Helper()
		var out []string
		for _, img := range decode[[]map[string]any](t, w.want("GET /images/json"+query, "", 200, "").body) {
			out = append(out, strings.TrimPrefix(fmt.Sprint(img["Id"], "<", img["ParentId"]), "sha256:"))
		}
		return strings.Join(out, " ")
	}
	for query, want := range map[string]string{
		"": "base< top<sha256:mid", "?all=1": "base< mid<sha256:base top<sha256:mid",
		`?all=1&filters={"dangling":["true"]}`: "top<sha256:mid",
	} {
		if got := ids(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	w.want(`POST /build/prune?filters={"label":["x"],"label!":["y"]}`, "", 200, "CachesDeleted")
	w.want(`POST /build/prune?filters={"labels":["x"]}`, "", 400, "invalid filter 'labels'")
}

// listed are images of a list.
type listed struct {
	worker.Images
	list []worker.ImageSummary
}

func (l *listed) List(context.Context) ([]worker.ImageSummary, error) {
	return slices.Clone(l.list), nil
}

// What an image takes on the disk is the sum of what those for its platforms take; one that no registry has had is described
// by its configuration.
func TestManifestSizes(t *testing.T) {
	const name = "docker.io/library/multi:1"
	w := serve(t, func(o *Options) {
		o.Images = &listed{Images: o.Images, list: []worker.ImageSummary{
			{ID: "sha256:amd", Names: []string{name}, Size: 100, ContentSize: 40, ConfigSize: 7, Platform: op.Platform{OS: "linux", Architecture: "amd64"}},
			{ID: "sha256:arm", Names: []string{name}, Size: 50, ContentSize: 20, ConfigSize: 8, Platform: op.Platform{OS: "linux", Architecture: "arm64"}},
		}}
	})
	list := decode[[]image.Summary](t, w.want("GET /images/json?manifests=1", "", 200, "").body)
	if len(list) != 1 || list[0].Size != 210 || len(list[0].Manifests) != 2 {
		t.Fatalf("%+v", list)
	}
	for i, want := range []int64{7, 8} {
		if d := list[0].Manifests[i].Descriptor; d.Size != want || d.Digest != digest.Digest(list[0].Manifests[i].ID) {
			t.Errorf("%d: %+v, want %d bytes", i, d, want)
		}
	}
	if plain := decode[[]image.Summary](t, w.want("GET /images/json", "", 200, "").body); plain[0].Size != 100 {
		t.Errorf("%+v", plain)
	}
}
