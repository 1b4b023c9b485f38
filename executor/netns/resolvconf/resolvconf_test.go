package resolvconf

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConf(t *testing.T) {
	host := Parse([]byte("# c\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a b\noptions edns0 trust-ad\n"))
	if got, want := string(host.Outside().File()), "nameserver 192.0.2.1\nsearch a b\noptions edns0 trust-ad\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	servers := []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	if got, want := string(host.With(servers, []string{"."}, []string{"ndots:2"}).File()), "nameserver 198.51.100.1\noptions ndots:2\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := string(host.With(servers, nil, nil).File()); !strings.HasPrefix(got, "nameserver 198.51.100.1\nsearch a b\n") {
		t.Errorf("got %q", got)
	}
}

// Of what resolvers do not understand, nothing is passed on.
func TestAsking(t *testing.T) {
	server := netip.MustParseAddr("10.0.0.1")
	for in, want := range map[string]string{
		"":                                  "nameserver 10.0.0.1\n",
		"nameserver 127.0.0.53\n":           "nameserver 10.0.0.1\n",
		"domain example.test":               "nameserver 10.0.0.1\nsearch example.test\n",
		"; c\n\tnameserver   1.2.3.4  \r\n": "nameserver 10.0.0.1\n",
		"search old\nnameserver bad\nsearch a b\noptions ndots:5 rotate\noptions inet6\n": "nameserver 10.0.0.1\nsearch a b\noptions ndots:5\n",
	} {
		if got := string(Parse([]byte(in)).Asking(server).File()); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// A file that is not there says nothing; one that cannot be read is an error.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	if c, err := Read(filepath.Join(dir, "none")); err != nil || len(c.File()) != 0 {
		t.Errorf("got %v, %v", c, err)
	}
	if c, err := Read(dir); err == nil {
		t.Errorf("a directory says %v", c)
	}
	path := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 192.0.2.7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Read(path); err != nil || string(c.File()) != "nameserver 192.0.2.7\n" {
		t.Errorf("got %v, %v", c, err)
	}
}

// Whatever a file holds, what is made of it means the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte("nameserver 1.2.3.4\nsearch a\noptions ndots:1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := string(Parse(data).File())
		if again := string(Parse([]byte(file)).File()); again != file {
			t.Errorf("%q becomes %q", file, again)
		}
	})
}
