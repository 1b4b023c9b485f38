package engine

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/image"
	apiregistry "github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// alice is the user whom the registry knows.
func alice(t *testing.T) string {
	t.Helper()
	b, err := json.Marshal(apiregistry.AuthConfig{Username: "alice", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	return base64.URLEncoding.EncodeToString(b)
}

// messages reads a stream of progress; the texts of statuses and streams are joined.
func messages(t *testing.T, r io.Reader) (texts []string, failure string) {
	t.Helper()
	for dec := json.NewDecoder(r); ; {
		var m struct {
			ID, Status, Stream, Error string
			ErrorDetail               *struct{ Message string }
			Aux                       json.RawMessage
		}
		switch err := dec.Decode(&m); {
		case err == io.EOF:
			return texts, failure
		case err != nil:
			t.Fatal(err)
		}
		if m.ErrorDetail != nil {
			if m.ErrorDetail.Message != m.Error {
				t.Errorf("the error is %q and %q", m.ErrorDetail.Message, m.Error)
			}
			failure = m.Error
			continue
		}
		text := strings.TrimSpace(m.ID + " " + m.Status + m.Stream)
		if m.Aux != nil {
			text = strings.TrimSpace(m.ID + " " + string(m.Aux))
		}
		texts = append(texts, text)
	}
}

// A pull tells its progress as docker's does, an image that is not there is a plain error before that, and credentials
// are those of the request.
func TestPull(t *testing.T) {
	w := serve(t)
	w.images.Registry = map[string]string{
		"docker.io/library/busybox:latest": "b", "docker.io/library/busybox:1": "b1", "private.example/x:latest": "p",
	}
	cli, ctx := w.client(), t.Context()
	pull := func(ref string, opt client.ImagePullOptions) []string {
		t.Helper()
		r, err := cli.ImagePull(ctx, ref, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		texts, failure := messages(t, r)
		if failure != "" {
			t.Error(failure)
		}
		return slices.Compact(texts)
	}
	d, id := digest.FromString("b").String(), digest.FromString("b").Encoded()[:12]
	if got, want := pull("busybox", client.ImagePullOptions{}), []string{
		"latest Pulling from library/busybox", id + " Pulling fs layer", id + " Downloading", id + " Download complete",
		id + " Pull complete", "Digest: " + d, "Status: Downloaded newer image for busybox:latest",
	}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := pull("busybox", client.ImagePullOptions{}); got[len(got)-1] != "Status: Image is up to date for busybox:latest" {
		t.Errorf("once more: %q", got)
	}
	if got := pull("busybox", client.ImagePullOptions{All: true}); !slices.Contains(got, "1 Pulling from library/busybox") || !slices.Contains(got, "latest Pulling from library/busybox") {
		t.Errorf("all: %q", got)
	}
	if _, err := cli.ImagePull(ctx, "none", client.ImagePullOptions{}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "manifest for none:latest not found: manifest unknown") {
		t.Errorf("none: %v", err)
	}
	if _, err := cli.ImagePull(ctx, "private.example/x", client.ImagePullOptions{}); err == nil || !strings.Contains(err.Error(), "pull access denied for private.example/x, repository does not exist or may require 'docker login'") || strings.Count(err.Error(), "denied") > 1 {
		t.Errorf("without credentials: %v", err)
	}
	pull("private.example/x", client.ImagePullOptions{RegistryAuth: alice(t)})
	for query, part := range map[string]string{
		"fromImage=UPPER": "must be lowercase", "fromImage=a&tag=:": "invalid tag format", "fromImage=scratch": "reserved name",
		"fromImage=a&platform=no/such/plat/form": "no/such", "": "neither fromImage nor fromSrc",
	} {
		w.want("POST /images/create?"+query, "", 400, part)
	}
	// Parameters may be a form.
	w.want("POST /images/create", "fromImage=busybox&tag=1", 200, "Pulling from library/busybox", "Content-Type: application/x-www-form-urlencoded")
}

// Credentials that say which registry they are for go to no other, not even for an image whose name leads there
// (CVE-2021-41092).
func TestAuthOfOthers(t *testing.T) {
	for _, c := range []struct {
		server, image string
		given         bool
	}{
		{"", "private.example/x", true},
		{"private.example", "private.example/x", true},
		{"https://Private.example/v1/", "private.example/x", true},
		{"private.example:5000", "private.example/x", false},
		{"other.example", "private.example/x", false},
		{"https://index.docker.io/v1/", "private.example/x", false},
		{"private.example.evil", "private.example/x", false},
	} {
		b, err := json.Marshal(apiregistry.AuthConfig{Username: "alice", Password: "secret", ServerAddress: c.server})
		if err != nil {
			t.Fatal(err)
		}
		header := "X-Registry-Auth: " + base64.URLEncoding.EncodeToString(b)
		w := serve(t)
		w.image(c.image + ":1")
		want := "push access denied"
		if c.given {
			want = "1: digest: sha256:"
		}
		if got := w.send("POST /images/"+c.image+"/push?tag=1", "", header); !strings.Contains(got.body, want) {
			t.Errorf("%+v: pushing: %d %s", c, got.code, got.body)
		}
	}
	for server, host := range map[string]string{
		"https://index.docker.io/v1/": "docker.io", "INDEX.docker.io": "docker.io", "registry-1.docker.io": "docker.io", "": "docker.io", "http://r:5000/x": "r:5000",
	} {
		if got := registryHost(server); got != host {
			t.Errorf("%q is of %s, want %s", server, got, host)
		}
	}
}

// A layer that was not uploaded is said to be where it comes from, in docker's words; a config is not shown.
func TestPushParts(t *testing.T) {
	hex := strings.Repeat("a", 64)
	now := time.Now()
	for action, want := range map[string]string{
		"pushing": "Pushed", "exists": "Layer already exists", "mounted from library/alpine": "Mounted from library/alpine",
	} {
		out := httptest.NewRecorder()
		p := &progress{w: &answer{ResponseWriter: out}, seen: map[string]bool{}, last: map[string]time.Time{}}
		p.part(solver.Status{ID: "layer sha256:" + hex, Action: action, Ended: now}, pushFirst)
		p.part(solver.Status{ID: "config sha256:" + hex, Action: action, Ended: now}, pushFirst)
		texts, _ := messages(t, out.Body)
		if got := strings.Join(texts, ","); got != "aaaaaaaaaaaa Preparing,aaaaaaaaaaaa "+want {
			t.Errorf("%s: got %s", action, got)
		}
	}
}

func TestPush(t *testing.T) {
	w := serve(t)
	w.image("private.example/x:1")
	cli, ctx := w.client(), t.Context()
	r, err := cli.ImagePush(ctx, "private.example/x:1", client.ImagePushOptions{RegistryAuth: alice(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	texts, failure := messages(t, r)
	if all := strings.Join(texts, "\n"); failure != "" || !strings.Contains(all, "The push refers to repository [private.example/x]\n1: digest: sha256:") ||
		!strings.Contains(all, `"Tag":"1"`) {
		t.Errorf("%q %q", all, failure)
	}
	if err := w.images.Tag(ctx, "private.example/x:1", "private.example/x:2"); err != nil {
		t.Fatal(err)
	}
	every := w.want("POST /images/private.example/x/push", "", 200, "2: digest: sha256:", "X-Registry-Auth: "+alice(t))
	if n := strings.Count(every.body, "The push refers to repository"); n != 1 {
		t.Errorf("the repository is named %d times: %s", n, every.body)
	}
	if w.images.Registry["private.example/x:1"] == "" {
		t.Error("the registry does not have it")
	}
	w.want("POST /images/private.example/x/push?tag=1", "", 404, "push access denied for private.example/x")
	w.want("POST /images/none/push?tag=1", "", 404, "tag does not exist: none:1")
	w.want("POST /images/none/push", "", 404, "An image does not exist locally with the tag: none")
}

// Names, tags, and what was removed.
func TestImages(t *testing.T) {
	w := serve(t)
	id := w.image("busybox")
	cli, ctx := w.client(), t.Context()
	if _, err := cli.ImageTag(ctx, client.ImageTagOptions{Source: "busybox", Target: "localhost:5000/a/b:1"}); err != nil {
		t.Fatal(err)
	}
	got, err := cli.ImageInspect(ctx, "localhost:5000/a/b:1")
	if err != nil || got.ID != id || !slices.Equal(got.RepoTags, []string{"busybox:latest", "localhost:5000/a/b:1"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := cli.ImageInspect(ctx, "none"); !errdefs.IsNotFound(err) || !strings.HasSuffix(err.Error(), "No such image: none:latest") {
		t.Error(err)
	}
	if h, err := cli.ImageHistory(ctx, "busybox"); err != nil || len(h.Items) != 2 || h.Items[0].ID != id || h.Items[0].Tags[0] != "busybox:latest" {
		t.Errorf("%+v, %v", h, err)
	}
	w.create(worker.ContainerCreate{})
	list, err := cli.ImageList(ctx, client.ImageListOptions{SharedSize: true})
	if err != nil || len(list.Items) != 1 || list.Items[0].Containers != 1 || list.Items[0].SharedSize < 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if old, err := w.client("1.50").ImageList(ctx, client.ImageListOptions{}); err != nil || old.Items[0].Containers != -1 || old.Items[0].SharedSize != -1 {
		t.Errorf("%+v, %v", old, err)
	}
	w.want("GET /v1.43/images/json", "", 200, `"VirtualSize"`)
	for filter, n := range map[string]int{
		`{"reference":["busy*"]}`: 1, `{"reference":["localhost:5000/*/*:1"]}`: 1, `{"reference":["none"]}`: 0,
		`{"dangling":["true"]}`: 0, `{"dangling":["false"]}`: 1, `{"label":["x"]}`: 0, `{"label!":["x"]}`: 1, `{"since":["busybox"]}`: 0,
		`{"until":["1h"]}`: 0,
	} {
		x := w.want("GET /images/json?filters="+filter, "", 200, "")
		if got := decode[[]image.Summary](t, x.body); len(got) != n {
			t.Errorf("%s: %d images, want %d", filter, len(got), n)
		}
	}
	w.want(`GET /images/json?filters={"what":["x"]}`, "", 400, "invalid filter 'what'")
	w.want(`GET /images/json?filters={"until":["x"]}`, "", 400, "neither a time nor a duration")
	w.want(`GET /images/json?filters={"before":["none"]}`, "", 404, "No such image: none:latest")
	for query, part := range map[string]string{
		"repo=sha256&tag=1": "refusing to create an ambiguous tag", "tag=1": "at least one component", "repo=a&tag=$": "invalid tag format",
		"repo=a@" + id: "cannot use digest reference",
	} {
		w.want("POST /images/busybox/tag?"+query, "", 400, part)
	}
	del, err := cli.ImageRemove(ctx, "localhost:5000/a/b:1", client.ImageRemoveOptions{})
	if err != nil || len(del.Items) != 1 || del.Items[0].Untagged != "localhost:5000/a/b:1" {
		t.Errorf("%+v, %v", del, err)
	}
	if _, err := cli.ImageRemove(ctx, "none", client.ImageRemoveOptions{}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if rep, err := cli.ImagePrune(ctx, client.ImagePruneOptions{Filters: client.Filters{}.Add("dangling", "false")}); err != nil ||
		len(rep.Report.ImagesDeleted) != 2 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// Archives go both ways, and an import makes an image of files.
func TestArchives(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	in, err := cli.ImageLoad(ctx, strings.NewReader("a:1 x\n- y\n"), client.ImageLoadWithQuiet(true))
	if err != nil {
		t.Fatal(err)
	}
	texts, failure := messages(t, in)
	if failure != "" || len(texts) != 2 || texts[0] != "Loaded image: a:1" || !strings.HasPrefix(texts[1], "Loaded image ID: sha256:") {
		t.Errorf("%q %q", texts, failure)
	}
	out, err := cli.ImageSave(ctx, []string{"a:1"})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(out); err != nil || !strings.HasPrefix(string(b), "a:1 sha256:") {
		t.Errorf("%q, %v", b, err)
	}
	w.want("GET /images/a:1/get", "", 200, "a:1 ")
	w.want("GET /images/none/get", "", 404, "No such image: none:latest")
	w.want("GET /images/get", "", 400, "no image was named")
	w.want("GET /v1.50/images/get?names=a:1&platform={}&platform={}", "", 400, "multiple platform parameters not supported")
	w.want(`GET /images/get?names=a:1&platform={"os":"x"}`, "", 400, "both OS and Architecture must be provided")
	w.want("POST /images/load", "damaged", 400, "the archive is damaged")
	from := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/files.tar" {
			http.NotFound(rw, r)
		}
		_, _ = io.WriteString(rw, "files")
	}))
	defer from.Close()
	got, err := cli.ImageImport(ctx, client.ImageImportSource{SourceName: from.URL + "/files.tar"}, "imported:1", client.ImageImportOptions{Changes: []string{"CMD x"}})
	if err != nil {
		t.Fatal(err)
	}
	if texts, failure := messages(t, got); failure != "" || len(texts) != 2 || !strings.HasPrefix(texts[1], "sha256:") {
		t.Errorf("%q %q", texts, failure)
	}
	if img, err := cli.ImageInspect(ctx, "imported:1"); err != nil || img.Config.Cmd[2] != "x" {
		t.Errorf("%+v, %v", img, err)
	}
	w.want("POST /images/create?fromSrc="+from.URL+"/none", "", 404, "404 Not Found")
	w.want("POST /images/create?fromSrc=file:///etc/passwd", "", 400, "neither http nor https")
	w.want("POST /images/create?fromSrc=-&changes=RUN+x", "", 400, "run is not a valid change command")
}

// What a name has for several platforms is one image in lists, with the others below.
func TestGroup(t *testing.T) {
	arm, amd := op.Platform{OS: "linux", Architecture: "arm64"}, op.Platform{OS: "linux", Architecture: "amd64"}
	list := []worker.ImageSummary{
		{ID: "sha256:arm", Names: []string{"x:1"}, Platform: arm},
		{ID: "sha256:amd", Names: []string{"x:1", "y:1"}, Platform: amd},
		{ID: "sha256:bare", Platform: amd},
		{ID: "sha256:far", Names: []string{"z:1"}, Platform: arm},
	}
	var got []string
	for _, g := range group(list, amd) {
		s := string(g.main.ID) + " " + strings.Join(g.names, ",") + ":"
		for _, one := range g.all {
			s += " " + string(one.ID)
		}
		got = append(got, s)
	}
	if want := []string{"sha256:amd x:1,y:1: sha256:amd sha256:arm", "sha256:bare : sha256:bare", "sha256:far z:1: sha256:far"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// An image looks to old clients as it did, field by field.
func TestImageFor(t *testing.T) {
	config := `{"architecture":"amd64","os":"linux","config":{"Cmd":["x"]},"container":"made of","docker_version":"20.10",
		"container_config":{"Cmd":["y"],"Tty":true}}`
	detail := &worker.ImageDetail{
		ImageSummary: worker.ImageSummary{
			ID: "sha256:i", Names: []string{"docker.io/library/a:1"}, Created: time.Unix(1, 0), Size: 5,
			RepoDigests: []string{"docker.io/library/a@sha256:" + strings.Repeat("a", 64)}, Parent: "sha256:parent",
		},
		Raw: []byte(config),
	}
	if err := json.Unmarshal([]byte(config), &detail.Config); err != nil {
		t.Fatal(err)
	}
	fields := func(v version) map[string]any {
		b, err := json.Marshal(imageFor(detail, imageDetail(detail), v))
		if err != nil {
			t.Fatal(err)
		}
		return decode[map[string]any](t, string(b))
	}
	now := fields(current)
	for _, key := range []string{"Parent", "Comment", "DockerVersion", "Author", "VirtualSize"} {
		if _, ok := now[key]; ok {
			t.Errorf("%s is there", key)
		}
	}
	if c := now["Config"].(map[string]any); len(c) != 1 {
		t.Errorf("the configuration is %v", c)
	}
	if got := now["Descriptor"].(map[string]any)["digest"]; got != "sha256:"+strings.Repeat("a", 64) {
		t.Errorf("the descriptor is of %v", got)
	}
	before := fields(version{1, 44})
	if c, ok := before["ContainerConfig"].(map[string]any); !ok || c["Tty"] != true || c["Hostname"] != "" || before["Container"] != "made of" ||
		before["DockerVersion"] != "20.10" || before["Parent"] != "sha256:parent" {
		t.Errorf("of the container it was made of: %v", before)
	}
	if since := fields(version{1, 45}); since["Container"] != nil || since["ContainerConfig"] != nil {
		t.Errorf("since 1.45: %v", since)
	}
	then := fields(version{1, 43})
	for _, key := range []string{"Parent", "Comment", "DockerVersion", "Author", "VirtualSize"} {
		if _, ok := then[key]; !ok {
			t.Errorf("%s is not there", key)
		}
	}
	if c := then["Config"].(map[string]any); len(c) != 17 || c["Hostname"] != "" || c["Cmd"].([]any)[0] != "x" {
		t.Errorf("the configuration was %v", c)
	}
	if c := fields(version{1, 51})["Config"].(map[string]any); len(c) != 8 {
		t.Errorf("the configuration was %v", c)
	}
}

// Platforms are JSON, or as the command line writes them.
func TestParsePlatforms(t *testing.T) {
	got, err := parsePlatforms([]string{"", "linux/arm64", `{"os":"linux","architecture":"arm","variant":"v7"}`})
	if err != nil || len(got) != 2 || got[0].Architecture != "arm64" || got[1].Variant != "v7" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"{", `{"os":"linux"}`, "a/b/c/d", "no such"} {
		if _, err := parsePlatforms([]string{bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A list of some names has nothing of the others: of the digests those stay whose repository was asked for.
func TestOnly(t *testing.T) {
	const sum = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	names := []string{"docker.io/library/a:1", "docker.io/library/a:2", "r.io/x/a:1"}
	digests := []string{"docker.io/library/a" + sum, "r.io/x/a" + sum, "r.io/y" + sum}
	for _, tt := range []struct {
		pattern        string
		names, digests []string
	}{
		{"a", names[:2], digests[:1]},
		{"a:2", names[1:2], digests[:1]},
		{"r.io/x/*", names[2:], digests[1:2]},
		{"r.io/y", nil, digests[2:]},
		{"z", nil, nil},
	} {
		g := imageGroup{names: names, main: worker.ImageSummary{RepoDigests: digests}}
		found := g.only([]string{tt.pattern})
		if !slices.Equal(g.names, tt.names) || !slices.Equal(g.main.RepoDigests, tt.digests) || found != (len(tt.names)+len(tt.digests) > 0) {
			t.Errorf("%s: %t %v %v", tt.pattern, found, g.names, g.main.RepoDigests)
		}
	}
}
