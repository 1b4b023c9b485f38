package registry

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

var (
	sha256Zeros = "sha256:" + strings.Repeat("0", 64)
	sha512Zeros = "sha512:" + strings.Repeat("0", 128)
)

// References mean what docker means by them.
func TestParseRef(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"busybox", "docker.io/library/busybox:latest"},
		{"busybox:1", "docker.io/library/busybox:1"},
		{"team/app", "docker.io/team/app:latest"},
		{"docker.io/busybox", "docker.io/library/busybox:latest"},
		{"index.docker.io/library/busybox", "docker.io/library/busybox:latest"},
		{"localhost/app", "localhost/app:latest"},
		{"localhost:5000/app:x", "localhost:5000/app:x"},
		{"127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"},
		{"[::1]:5000/app", "[::1]:5000/app:latest"},
		{"Registry.Example/app", "registry.example/app:latest"},
		{"Localhost/app", "localhost/app:latest"},
		{"Team/app", "Team/app:latest"},
		{"busybox@" + sha256Zeros, "docker.io/library/busybox@" + sha256Zeros},
		{"busybox:1@" + sha256Zeros, "docker.io/library/busybox:1@" + sha256Zeros},
		{"busybox@" + sha512Zeros, "docker.io/library/busybox@" + sha512Zeros},
		{"", ""},
		{"UPPER", ""},
		{"a:b:c", ""},
		{"a/../b", ""},
		{"registry.example/", ""},
		{"busybox@sha256:abc", ""},
		{"busybox@sha1:" + strings.Repeat("0", 40), ""},
		{"busybox@" + strings.ToUpper(sha256Zeros), ""},
		{strings.Repeat("0", 64), ""},
		{"busybox:" + strings.Repeat("t", 129), ""},
		{"user:secret@host.example/app", ""},
		{"https://host.example/app", ""},
	} {
		ref, err := ParseRef(tt.in)
		got := ref.String()
		if err != nil {
			got = ""
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("ParseRef(%q): %v is not known as an invalid argument", tt.in, err)
			}
		}
		if got != tt.want {
			t.Errorf("ParseRef(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
}

// Repositories made by hand are checked before they are used.
func TestRefCheck(t *testing.T) {
	good := Repo{"registry.test", "team/app"}
	if err := good.Tag("x").check(); err != nil {
		t.Errorf("a good reference: %v", err)
	}
	for _, r := range []Ref{
		{},
		{Repo: Repo{"registry.test", "../app"}, Tag: "x"},
		{Repo: Repo{"registry.test", "app?x=1"}, Tag: "x"},
		{Repo: Repo{"registry.test/team", "app"}, Tag: "x"},
		{Repo: Repo{"Registry.test", "app"}, Tag: "x"},
		{Repo: Repo{"", "app"}, Tag: "x"},
		{Repo: Repo{"docker.io", "busybox"}, Tag: "x"},
		{Repo: Repo{"user@registry.test", "app"}, Tag: "x"},
		good.Tag(""), good.Tag("a/b"), good.Tag("a?b"),
		good.At(v1.Hash{Algorithm: "sha256", Hex: "../../../../etc"}),
		good.At(v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("A", 64)}),
		good.At(v1.Hash{Algorithm: "md5", Hex: strings.Repeat("0", 32)}),
	} {
		if err := r.check(); err == nil {
			t.Errorf("%#v passes", r)
		}
	}
}

// ParseRepo takes names only.
func TestParseRepo(t *testing.T) {
	r, err := ParseRepo("ghcr.io/a/b")
	if want := (Repo{"ghcr.io", "a/b"}); err != nil || r != want {
		t.Errorf("got %v, %v", r, err)
	}
	for _, s := range []string{"app:x", "app@" + sha256Zeros, "-"} {
		if r, err := ParseRepo(s); err == nil {
			t.Errorf("ParseRepo(%q) = %v", s, r)
		}
	}
}

// Only names that are local as written are local: nothing that could resolve to this machine, and nothing like it.
func TestIsLocalName(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "LOCALHOST": true, "127.0.0.1": true, "127.0.0.1:80": true,
		"127.1.2.3:5000": true, "[::1]": true, "[::1]:5000": true,
		"localhost.example": false, "registry.localhost": false, "127.0.0.1.example": false, "128.0.0.1": false,
		"0.0.0.0": false, "[::]:5000": false, "[::ffff:127.0.0.1]:5000": false, "[::1%lo]:5000": false, "10.0.0.1": false,
		"127.1": false, "0x7f.0.0.1": false, "": false, "localhost.": false,
	} {
		if got := isLocalName(host); got != want {
			t.Errorf("isLocalName(%q) = %v", host, got)
		}
	}
}

// A digest is sha256 or sha512 in lower-case hex and nothing else (CVE-2024-3727).
func TestParseDigest(t *testing.T) {
	for _, s := range []string{sha256Zeros, sha512Zeros} {
		if h, err := ParseDigest(s); err != nil || h.String() != s {
			t.Errorf("ParseDigest(%q) = %v, %v", s, h, err)
		}
	}
	for _, s := range []string{
		"", ":", "sha256:", "sha256", "sha256:../../x", sha256Zeros + "0", sha256Zeros[:70], " " + sha256Zeros,
		sha256Zeros + "\n", "sha512:" + strings.Repeat("0", 64), "sha1:" + strings.Repeat("0", 40),
		"sha256:" + strings.Repeat("A", 64), "SHA256:" + strings.Repeat("0", 64), "sha256+b64:" + strings.Repeat("0", 64),
		"sha384:" + strings.Repeat("0", 96), "sha256:" + strings.Repeat("0", 60) + "/../",
	} {
		if h, err := ParseDigest(s); err == nil {
			t.Errorf("ParseDigest(%q) = %v", s, h)
		}
	}
	if err := CheckDigest(v1.Hash{}); err == nil {
		t.Error("the zero digest passes")
	}
}

// A descriptor keeps all it says on the way to the image specification's types and back.
func TestDescriptorConversion(t *testing.T) {
	d := describeBytes([]byte("x"))
	d.Annotations, d.URLs, d.ArtifactType = map[string]string{"a": "b"}, []string{"https://x"}, "t"
	d.Platform = &v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7", OSVersion: "1", OSFeatures: []string{"f"}}
	got, err := FromOCI(ToOCI(d))
	if err != nil || got.Digest != d.Digest || got.Size != 1 || !got.Platform.Equals(*d.Platform) ||
		got.Annotations["a"] != "b" || got.URLs[0] != "https://x" || got.ArtifactType != "t" {
		t.Errorf("got %+v, %v", got, err)
	}
	bad := ToOCI(d)
	bad.Digest = "sha256:../x"
	if _, err := FromOCI(bad); err == nil {
		t.Error("an invalid digest passes")
	}
}

// Whatever is parsed is canonical: it parses to itself, and nothing in it can change the path of a URL.
func FuzzParseRef(f *testing.F) {
	for _, s := range []string{
		"busybox", "a.b/c:d", "localhost:5000/x@" + sha256Zeros, "[::1]:5/x", "A.B/c", "x:1@" + sha512Zeros, "a//b", "../x", "AaA/0",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseRef(s)
		if err != nil {
			return
		}
		if err := ref.check(); err != nil {
			t.Errorf("%q parses to %q, which does not pass: %v", s, ref, err)
		}
		if strings.Contains(ref.Path, "..") || strings.ContainsAny(ref.Path+ref.Tag, "?#%\\ ") || ref.name() == "" {
			t.Errorf("%q parses to %q", s, ref)
		}
	})
}
