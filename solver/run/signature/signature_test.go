package signature

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// A signer is an OpenPGP key.
type signer struct {
	t      *testing.T
	entity *openpgp.Entity
}

func newSigner(t *testing.T, conf *packet.Config) *signer {
	t.Helper()
	e, err := openpgp.NewEntity("somebody", "", "somebody@host.example", conf)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t, e}
}

func (s *signer) public() []byte {
	s.t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(s.entity.Serialize(w), w.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

func (s *signer) sign(data string, conf *packet.Config) []byte {
	s.t.Helper()
	var b bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&b, s.entity, strings.NewReader(data), conf); err != nil {
		s.t.Fatal(err)
	}
	return b.Bytes()
}

// TestPGP checks that a signature counts for the very bytes, of a trusted key that was valid, and not otherwise.
func TestPGP(t *testing.T) {
	now := time.Now()
	at := func(when time.Time, life uint32) *packet.Config {
		return &packet.Config{Time: func() time.Time { return when }, KeyLifetimeSecs: life, RSABits: 2048, Algorithm: packet.PubKeyAlgoEdDSA}
	}
	good, other := newSigner(t, at(now.Add(-time.Hour), 0)), newSigner(t, at(now.Add(-time.Hour), 0))
	expired := newSigner(t, at(now.Add(-48*time.Hour), 3600))
	revoked := newSigner(t, at(now.Add(-time.Hour), 0))
	before := revoked.sign("data", at(now.Add(-time.Minute), 0))
	if err := revoked.entity.RevokeKey(packet.KeyCompromised, "stolen", at(now, 0)); err != nil {
		t.Fatal(err)
	}
	both := append(other.public(), good.public()...)
	sig := good.sign("data", at(now, 0))
	for _, tt := range []struct {
		name, data string
		sig, keys  []byte
		policy     Policy
		ok         bool
	}{
		{"good", "data", sig, good.public(), Policy{}, true},
		{"one of two keys", "data", sig, both, Policy{RejectExpired: true}, true},
		{"other data", "date", sig, good.public(), Policy{}, false},
		{"other key", "data", sig, other.public(), Policy{}, false},
		{"expired since", "data", expired.sign("data", at(now.Add(-48*time.Hour+time.Minute), 0)), expired.public(), Policy{}, true},
		{"expired and rejected", "data", expired.sign("data", at(now.Add(-48*time.Hour+time.Minute), 0)), expired.public(), Policy{RejectExpired: true}, false},
		{"revoked", "data", before, revoked.public(), Policy{}, false},
		{"of the future", "data", good.sign("data", at(now.Add(time.Hour), 0)), good.public(), Policy{}, false},
		{"no signature", "data", []byte("nothing"), good.public(), Policy{}, false},
		{"empty signature", "data", nil, good.public(), Policy{}, false},
		{"key as signature", "data", good.public(), good.public(), Policy{}, false},
		{"no keys", "data", sig, nil, Policy{}, false},
		{"signature as key", "data", sig, sig, Policy{}, false},
	} {
		if err := PGP(strings.NewReader(tt.data), tt.sig, tt.keys, tt.policy); (err == nil) != tt.ok {
			t.Errorf("%s: got %v, want success: %v", tt.name, err, tt.ok)
		}
	}
}

// sshKey makes a key with ssh-keygen, and returns its file and the public key.
func sshKey(t *testing.T, kind string) (file string, public []byte) {
	t.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("needs ssh-keygen")
	}
	file = filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	public, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, public
}

func sshSign(t *testing.T, key, namespace, data string) []byte {
	t.Helper()
	cmd := exec.Command("ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", namespace)
	cmd.Stdin = strings.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestSSH checks the signatures of ssh-keygen: for the very bytes, the use, and a trusted key.
func TestSSH(t *testing.T) {
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		key, public := sshKey(t, kind)
		_, other := sshKey(t, "ed25519")
		sig := sshSign(t, key, "git", "data")
		for _, tt := range []struct {
			name, data string
			sig, keys  []byte
			ok         bool
		}{
			{"good", "data", sig, public, true},
			{"one of two keys", "data", sig, append(append([]byte("# trusted\n"), other...), public...), true},
			{"other data", "date", sig, public, false},
			{"other key", "data", sig, other, false},
			{"other use", "data", sshSign(t, key, "file", "data"), public, false},
			{"no signature", "data", []byte("nothing"), public, false},
			{"no keys", "data", sig, nil, false},
			{"bad keys", "data", sig, []byte("ssh-ed25519 nonsense\n"), false},
		} {
			if err := SSH([]byte(tt.data), tt.sig, tt.keys, "git"); (err == nil) != tt.ok {
				t.Errorf("%s, %s: got %v, want success: %v", kind, tt.name, err, tt.ok)
			}
		}
	}
}

// commit is a commit as git stores it, with a signature of what sign returns.
func commit(sign func(data string) []byte) []byte {
	head, message := "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n", "\nmessage\n"
	sig := strings.TrimSuffix(string(sign(head+message)), "\n")
	return []byte(head + "gpgsig " + strings.ReplaceAll(sig, "\n", "\n ") + "\n" + message)
}

// TestGit checks commits and tags with signatures of both kinds, and what tampers with them.
func TestGit(t *testing.T) {
	s := newSigner(t, nil)
	key, public := sshKey(t, "ed25519")
	pgp := func(data string) []byte { return s.sign(data, nil) }
	sshSig := func(data string) []byte { return sshSign(t, key, "git", data) }
	tag := func(sign func(string) []byte) []byte {
		data := "object 4b825dc642cb6eb9a060e54bf8d69288fbee4904\ntype commit\ntag v1\ntagger a <a@b> 1 +0000\n\nmessage\n"
		return []byte(data + string(sign(data)))
	}
	both := map[string][2][]byte{"pgp": {commit(pgp), s.public()}, "ssh": {commit(sshSig), public}, "pgp tag": {tag(pgp), s.public()}, "ssh tag": {tag(sshSig), public}}
	for name, c := range both {
		if err := Git(c[0], c[1], Policy{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for what, bad := range map[string][]byte{
			"another message": bytes.Replace(c[0], []byte("message"), []byte("massage"), 1),
			"another header":  bytes.Replace(c[0], []byte("a@b"), []byte("a@c"), 1),
			"more at the end": append(bytes.Clone(c[0]), "\nmore\n"...),
			"cut":             c[0][:len(c[0])-40],
		} {
			if err := Git(bad, c[1], Policy{}); err == nil && !(what == "more at the end" && strings.Contains(name, "tag")) {
				t.Errorf("%s with %s: it counts", name, what)
			}
		}
	}
	for _, unsigned := range []string{"", "tree x\n\nmessage\n", "object x\n\nmessage\n", "gpgsig \n\n"} {
		if err := Git([]byte(unsigned), s.public(), Policy{}); err == nil {
			t.Errorf("%q counts as signed", unsigned)
		}
	}
	if err := Git([]byte("tree x\n\n"+pgpBegin), s.public(), Policy{}); !errors.Is(err, ErrUnsigned) {
		t.Errorf("a signature in the message of a commit: got %v", err)
	}
}

// FuzzGit checks that no object makes the check panic, or count for a key that has signed nothing.
func FuzzGit(f *testing.F) {
	e, err := openpgp.NewEntity("x", "", "", nil)
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(e.Serialize(w), w.Close())
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("tree x\ngpgsig "+pgpBegin+"\n \n -----END PGP SIGNATURE-----\n\nm"), []byte("ssh-ed25519 AAAA"))
	f.Add([]byte("object x\n\nm\n"+sshBegin+"\nAAAA\n-----END SSH SIGNATURE-----\n"), []byte("ssh-ed25519 AAAA"))
	f.Fuzz(func(t *testing.T, object, keys []byte) {
		if Git(object, b.Bytes(), Policy{}) == nil {
			t.Fatal("a key that has signed nothing counts")
		}
		_ = Git(object, keys, Policy{})
	})
}
