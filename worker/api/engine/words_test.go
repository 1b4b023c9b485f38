package engine

import (
	"slices"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

// Lists of words may be sent as one string, in all versions: it is one word.
func TestWords(t *testing.T) {
	w := serve(t)
	w.image("busybox")
	for _, tt := range []struct {
		body                   string
		cmd, entrypoint, shell []string
		capAdd, capDrop        []string
	}{
		{body: `"Cmd":"sleep 5"`, cmd: []string{"sleep 5"}},
		{body: `"cmd":"sleep","Entrypoint":null`, cmd: []string{"sleep"}},
		{body: `"Cmd":["sleep","5"],"Entrypoint":"env"`, cmd: []string{"sleep", "5"}, entrypoint: []string{"env"}},
		{
			body: `"Cmd":["x"],"Shell":"/bin/ash","HostConfig":{"CapAdd":"NET_ADMIN","CapDrop":["MKNOD","CHOWN"]}`, cmd: []string{"x"},
			shell: []string{"/bin/ash"}, capAdd: []string{"NET_ADMIN"}, capDrop: []string{"MKNOD", "CHOWN"},
		},
	} {
		for _, version := range []string{"", "/v1.24", "/v1.41", "/v1.52"} {
			x := w.want("POST "+version+"/containers/create", `{"Image":"busybox",`+tt.body+`}`, 201, `"Id":"`)
			got, err := w.containers.Inspect(t.Context(), decode[container.CreateResponse](t, x.body).ID, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, list := range []struct {
				name      string
				got, want []string
			}{
				{"Cmd", got.Config.Cmd, tt.cmd},
				{"Entrypoint", got.Config.Entrypoint, tt.entrypoint},
				{"Shell", got.Config.Shell, tt.shell},
				{"CapAdd", got.HostConfig.CapAdd, tt.capAdd},
				{"CapDrop", got.HostConfig.CapDrop, tt.capDrop},
			} {
				if !slices.Equal(list.got, list.want) {
					t.Errorf("%s %s: %s is %q, want %q", version, tt.body, list.name, list.got, list.want)
				}
			}
		}
	}
	id := w.create(worker.ContainerCreate{}, "sleep")
	w.begin(id)
	for _, version := range []string{"", "/v1.24", "/v1.41", "/v1.52"} { // here docker takes a list alone
		w.want("POST "+version+"/containers/"+id+"/exec", `{"Cmd":"true"}`, 400, "Cmd of type []string")
		w.want("POST "+version+"/containers/"+id+"/exec", `{"Cmd":["true"]}`, 201, `"Id":"`)
	}
	w.want("POST /commit?container="+id, `{"Cmd":"run this"}`, 201, `"Id":"`)
	if c := decode[*configWords](t, `{"Cmd":"run this","Env":["A=b"]}`).config(); !slices.Equal(c.Cmd, []string{"run this"}) || c.Env[0] != "A=b" {
		t.Errorf("the config of a commit is %+v", c)
	}
	w.want("POST /containers/create", `{"Image":"busybox","Cmd":5}`, 400, "invalid JSON")
	w.want("POST /containers/create", `{"HostConfig":{}}`, 400, "config cannot be empty")
	w.want("POST /containers/create", `{"Cmd":"x","Entrypoint":{}}`, 400, "invalid JSON")
}
