package signature

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// sshMagic begins a signature and what is signed.
const sshMagic = "SSHSIG"

// sshBlob is a signature after its magic and version.
type sshBlob struct {
	PublicKey, Namespace, Reserved, Hash, Signature string
}

// sshSigned is what is signed, after the magic.
type sshSigned struct {
	Namespace, Reserved, Hash, Sum string
}

// SSH checks that data has the armored signature of one of the keys, which are lines of authorized_keys, for the use that
// namespace names.
func SSH(data, signature, keys []byte, namespace string) error {
	blob, err := parseSSH(signature)
	if err != nil {
		return err
	}
	if blob.Namespace != namespace {
		return fmt.Errorf("the SSH signature is for %q instead of %q", blob.Namespace, namespace)
	}
	var sum []byte
	switch blob.Hash {
	case "sha256":
		s := sha256.Sum256(data)
		sum = s[:]
	case "sha512":
		s := sha512.Sum512(data)
		sum = s[:]
	default:
		return fmt.Errorf("the SSH signature has the unknown hash %q", blob.Hash)
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal([]byte(blob.Signature), &sig); err != nil {
		return fmt.Errorf("decoding the SSH signature: %w", err)
	}
	if sig.Format == ssh.KeyAlgoRSA {
		return errors.New("the SSH signature is made with SHA-1")
	}
	key, err := trusted(keys, []byte(blob.PublicKey))
	if err != nil {
		return err
	}
	signed := append([]byte(sshMagic), ssh.Marshal(sshSigned{blob.Namespace, blob.Reserved, blob.Hash, string(sum)})...)
	if err := key.Verify(signed, &sig); err != nil {
		return fmt.Errorf("verifying the SSH signature: %w", err)
	}
	return nil
}

func parseSSH(armored []byte) (*sshBlob, error) {
	block, _ := pem.Decode(armored)
	if block == nil || block.Type != "SSH SIGNATURE" {
		return nil, errors.New("decoding the SSH signature: it is not armored as one")
	}
	rest, ok := bytes.CutPrefix(block.Bytes, []byte(sshMagic))
	if !ok {
		return nil, errors.New("decoding the SSH signature: it does not begin as one")
	}
	var s struct {
		Version uint32
		Rest    []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(rest, &s); err != nil {
		return nil, fmt.Errorf("decoding the SSH signature: %w", err)
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("the SSH signature has the unknown version %d", s.Version)
	}
	blob := &sshBlob{}
	if err := ssh.Unmarshal(s.Rest, blob); err != nil {
		return nil, fmt.Errorf("decoding the SSH signature: %w", err)
	}
	return blob, nil
}

// trusted returns the key of keys that is the one in a signature.
func trusted(keys, wire []byte) (ssh.PublicKey, error) {
	found := false
	for len(bytes.TrimSpace(keys)) > 0 {
		key, _, _, rest, err := ssh.ParseAuthorizedKey(keys)
		if err != nil {
			if found {
				break // a comment at the end
			}
			return nil, fmt.Errorf("reading the SSH public keys: %w", err)
		}
		found = true
		if bytes.Equal(key.Marshal(), wire) {
			return key, nil
		}
		keys = rest
	}
	if !found {
		return nil, errors.New("reading the SSH public keys: there are none")
	}
	return nil, errors.New("the SSH signature is of another key")
}
