package container

import (
	"maps"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

// Options of logs that mean nothing are refused in docker's words, each driver's for itself; what is right is taken.
func TestLogOptions(t *testing.T) {
	m := &Manager{deps: Deps{LogDriver: logJSON}}
	for _, c := range []struct{ driver, opts, want string }{
		{"", "", ""},
		{"json-file", "max-size=1m max-file=3 compress=true labels=a,b labels-regex=^x env=A env-regex=^B tag={{.Name}}/{{.ID}}", ""},
		{"json-file", "mode=non-blocking max-buffer-size=4m", ""},
		{"json-file", "mode=blocking cache-disabled=true", ""},
		{"local", "max-size=1m max-file=3 compress=false mode=non-blocking", ""},
		{"local", "max-file=1 compress=false", ""},
		{"none", "max-size=nothing", ""},
		{"syslog", "", "logger: no log driver named 'syslog' is registered"},
		{"json-file", "max-sizes=1", "unknown log opt 'max-sizes' for json-file log driver"},
		{"local", "tag=x", "unknown log opt 'tag' for log driver local"},
		{"local", "labels=x", "unknown log opt 'labels' for log driver local"},
		{"local", "env-regex=x", "unknown log opt 'env-regex' for log driver local"},
		{"json-file", "mode=sometimes", "logger: logging mode not supported: sometimes"},
		{"json-file", "max-buffer-size=1m", "logger: max-buffer-size option is only supported with 'mode=non-blocking'"},
		{"json-file", "mode=blocking max-buffer-size=1m", "logger: max-buffer-size option is only supported with 'mode=non-blocking'"},
		{"json-file", "mode=non-blocking max-buffer-size=much", "error parsing option max-buffer-size: invalid size: 'much'"},
		{"json-file", "cache-disabled=x", "invalid value for option cache-disabled: x"},
		{"json-file", "max-size=big", "invalid size: 'big'"},
		{"local", "max-size=big", "invalid value for max-size: big: invalid size: 'big'"},
		{"json-file", "max-size=0", "max-size must be a positive number"},
		{"json-file", "max-file=x", `strconv.Atoi: parsing "x": invalid syntax`},
		{"local", "max-file=x", "invalid value for max-file: x"},
		{"json-file", "max-file=0", "max-file cannot be less than 1"},
		{"json-file", "compress=maybe", `strconv.ParseBool: parsing "maybe": invalid syntax`},
		{"local", "compress=maybe", "error reading compress log option"},
		{"json-file", "compress=true", "compress cannot be true when max-file is less than 2 or max-size is not set"},
		{"local", "max-file=1", "compression cannot be enabled when max file count is 1"},
		{"json-file", "labels-regex=(", "error parsing regexp: missing closing ): `(`"},
		{"json-file", "env-regex=(", "error parsing regexp: missing closing ): `(`"},
		{"json-file", "tag={{.Name", "template: log-tag:1: unclosed action"},
		{"json-file", "tag={{.Nothing}}", "can't evaluate field Nothing"},
	} {
		config := container.LogConfig{Type: c.driver, Config: pairs(c.opts)}
		err := m.checkLog(&config)
		if got := text(err); got == "" != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s %s: got %q, want %q", c.driver, c.opts, got, c.want)
		}
	}
}

func pairs(s string) map[string]string {
	out := make(map[string]string)
	for _, f := range strings.Fields(s) {
		k, v, _ := strings.Cut(f, "=")
		out[k] = v
	}
	return out
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A log has a buffer only in mode non-blocking, of a megabyte unless another size is asked for.
func TestLogBuffer(t *testing.T) {
	for opts, want := range map[string]int64{
		"":                                     0,
		"mode=blocking":                        0,
		"mode=non-blocking":                    1e6,
		"mode=non-blocking max-buffer-size=4k": 4096,
		"mode=non-blocking max-buffer-size=0":  1,
	} {
		l, err := logLimits(&container.LogConfig{Type: logJSON, Config: pairs(opts)})
		if err != nil || l.Buffer != want {
			t.Errorf("%q: got %d, %v, want %d", opts, l.Buffer, err, want)
		}
	}
}

// The log of a container in mode non-blocking is whole when it has ended, and each line has the labels, the variables and
// the tag that were asked for.
func TestLogAttrs(t *testing.T) {
	f := newFixture(t)
	req := request("both")
	req.Name = "tagged"
	req.Env, req.Labels = []string{"A=1", "B2=2", "C=3", "bare"}, map[string]string{"l": "x", "m": "y"}
	req.HostConfig.LogConfig = container.LogConfig{Type: logJSON, Config: map[string]string{
		"mode": "non-blocking", "labels": "l,gone", "env": "A", "env-regex": "[0-9]$",
		"tag": `{{upper .Name}} {{index .ContainerLabels "m"}} {{.ImageName}} {{truncate .Command 3}} {{join (split "a b" " ") "+"}}`,
	}}
	id := f.create(req)
	f.must(f.Start(t.Context(), id))
	f.await(id)
	got := make(map[string]string)
	var out strings.Builder
	f.must(f.Logs(t.Context(), id, worker.LogsOptions{Stdout: true, Stderr: true, Details: true, Tail: -1}, &out))
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines: %q", n, out.String())
	}
	c, err := f.find(id)
	f.must(err)
	maps.Copy(got, f.logAttrs(c.get()))
	want := map[string]string{"l": "x", "A": "1", "B2": "2", "tag": "TAGGED y busybox bot a+b"}
	if !maps.Equal(got, want) {
		t.Errorf("attributes are %v, want %v", got, want)
	}
}
