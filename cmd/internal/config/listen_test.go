package config

import (
	"strings"
	"testing"
)

// Which addresses there are, and which of them other machines reach.
func TestParseAddress(t *testing.T) {
	for text, loopback := range map[string]bool{
		"unix:///run/x.sock": true, "tcp://127.0.0.1:1": true, "tcp://[::1]:1": true, "tcp://localhost:0": true, "tcp://127.9.9.9:1": true,
		"tcp://[::ffff:127.0.0.1]:1": true, "tcp://0.0.0.0:1": false, "tcp://:1": false, "tcp://[::]:1": false, "tcp://10.0.0.1:1": false,
		"tcp://example.com:1": false, "tcp://localhost.example.com:1": false, "fd://": false, "fd://3": false,
	} {
		a, err := ParseAddress(text)
		if err != nil || a.Loopback() != loopback || a.String() != text {
			t.Errorf("%s: got %v, loopback %v, %v", text, a, a.Loopback(), err)
		}
	}
	for text, want := range map[string]string{
		"/run/x": "is unix:///run/x meant?", "tcp://x": "it is not tcp://host:port", "tcp://": "it is not tcp://host:port", "tcp://x:http": "is not a port",
		"tcp://x:70000": "is not a port", "npipe://x": "only unix://, tcp:// and fd://", "unix://x": "not absolute", "": "has no scheme",
	} {
		if a, err := ParseAddress(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v, want %q", text, a, err, want)
		}
	}
}

// A daemon that other machines reach asks them for certificates, or it has been told in plain words not to.
func TestOpenAddress(t *testing.T) {
	pair := []string{"--tlscert", "/c", "--tlskey", "/k"}
	for _, c := range []struct {
		args []string
		err  string
	}{
		{[]string{"--addr", "tcp://127.0.0.1:1"}, ""},
		{[]string{"--addr", "tcp://0.0.0.0:1"}, "without TLS anyone who does becomes root"},
		{[]string{"--addr", "unix:///a", "--addr", "tcp://:1"}, "without TLS anyone who does becomes root"},
		{append([]string{"--addr", "tcp://:1"}, pair...), "without client certificates anyone who does becomes root"},
		{append([]string{"--addr", "tcp://:1", "--tlscacert", "/ca"}, pair...), ""},
		{[]string{"--addr", "tcp://:1", "--allow-unauthenticated-tcp"}, ""},
		{[]string{"--tlscert", "/c"}, "TLS needs a certificate and its key"},
		{[]string{"--tlscacert", "/c"}, "TLS needs a certificate and its key"},
		{[]string{"--addr", "unix:///a", "--addr", "unix:///a"}, "is given twice"},
		{[]string{"--debugaddr", "nonsense"}, "grpc.debugAddress"},
		{[]string{"--debugaddr", "fd://"}, "cannot be fd://"},
	} {
		if _, err := load(t, "", c.args...); c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%v: got %v, want %q", c.args, err, c.err)
		}
	}
}
