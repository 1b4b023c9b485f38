// Package signature checks who has signed files and Git objects: OpenPGP signatures, as GnuPG makes them, and those of SSH
// keys, as ssh-keygen does (PROTOCOL.sshsig of OpenSSH).
//
// A check says yes only if one of the keys that the caller trusts has signed these very bytes. Signatures with weak hashes,
// of short RSA keys and of revoked keys do not count. The functions keep no state and are safe for concurrent use.
package signature

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// A Policy says which keys count.
type Policy struct {
	// RejectExpired refuses a key that has expired by now. Otherwise it need only have been valid when it signed.
	RejectExpired bool
}

// maxSkew is how far in the future a signature may have been made: clocks differ.
const maxSkew = 5 * time.Minute

// minRSA is the shortest RSA key that counts, in bits.
const minRSA = 2048

// PGP checks that data has the detached, armored signature of one of the armored keys.
func PGP(data io.Reader, signature, keys []byte, policy Policy) error {
	sig, body, err := parsePGP(signature)
	if err != nil {
		return err
	}
	ring, err := keyRing(keys)
	if err != nil {
		return err
	}
	switch sig.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return fmt.Errorf("the signature is made with a weak or unknown hash (%v)", sig.Hash)
	}
	switch sig.PubKeyAlgo {
	case packet.PubKeyAlgoEdDSA, packet.PubKeyAlgoECDSA, packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly, packet.PubKeyAlgoEd25519:
	default:
		return fmt.Errorf("the signature is of a kind of key that does not count (%v)", sig.PubKeyAlgo)
	}
	now := time.Now()
	conf := &packet.Config{}
	if !policy.RejectExpired {
		conf.Time = func() time.Time { return sig.CreationTime }
	}
	signer, err := openpgp.CheckDetachedSignature(ring, data, bytes.NewReader(body), conf)
	if err != nil {
		if sig.IssuerKeyId != nil {
			return fmt.Errorf("signature by %X: %w", *sig.IssuerKeyId, err)
		}
		return err
	}
	if err := usable(signer, now, policy); err != nil {
		return err
	}
	if sig.CreationTime.After(now.Add(maxSkew)) {
		return fmt.Errorf("the signature was made in the future: %v", sig.CreationTime)
	}
	return nil
}

// parsePGP returns the first signature of an armored block, and the block's content.
func parsePGP(armored []byte) (*packet.Signature, []byte, error) {
	block, err := armor.Decode(bytes.NewReader(armored))
	if err != nil {
		return nil, nil, fmt.Errorf("decoding the armored signature: %w", err)
	}
	body, err := io.ReadAll(block.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("decoding the armored signature: %w", err)
	}
	for r := packet.NewReader(bytes.NewReader(body)); ; {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil, nil, errors.New("there is no signature in what was to be one")
		}
		if err != nil {
			return nil, nil, fmt.Errorf("decoding the signature: %w", err)
		}
		if sig, ok := p.(*packet.Signature); ok {
			return sig, body, nil
		}
	}
}

// keyRing reads armored keys, one block after another.
func keyRing(armored []byte) (openpgp.EntityList, error) {
	var ring openpgp.EntityList
	// Cut into blocks here: the decoder reads ahead, and would lose the beginning of the next.
	const begin = "-----BEGIN PGP"
	parts := bytes.Split(armored, []byte(begin))
	for _, part := range parts[1:] {
		block, err := armor.Decode(io.MultiReader(strings.NewReader(begin), bytes.NewReader(part)))
		if err != nil {
			return nil, fmt.Errorf("decoding an armored key: %w", err)
		}
		if block.Type != openpgp.PublicKeyType && block.Type != openpgp.PrivateKeyType {
			return nil, fmt.Errorf("decoding an armored key: it is a %q", block.Type)
		}
		more, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return nil, fmt.Errorf("reading an armored key: %w", err)
		}
		ring = append(ring, more...)
	}
	if len(ring) == 0 {
		return nil, errors.New("there is no armored key in what was to have them")
	}
	return ring, nil
}

// usable says why a key does not count although it made the signature.
func usable(e *openpgp.Entity, now time.Time, policy Policy) error {
	if e == nil || e.PrimaryKey == nil {
		return errors.New("the signature is of no key")
	}
	if id := e.PrimaryIdentity(); policy.RejectExpired && id != nil && id.SelfSignature != nil {
		if life := id.SelfSignature.KeyLifetimeSecs; life != nil && *life > 0 {
			if end := e.PrimaryKey.CreationTime.Add(time.Duration(*life) * time.Second); now.After(end) {
				return fmt.Errorf("the key expired at %v", end)
			}
		}
	}
	for _, r := range e.Revocations {
		if r != nil && r.SigType == packet.SigTypeKeyRevocation && e.PrimaryKey.VerifyRevocationSignature(r) == nil {
			return fmt.Errorf("the key is revoked: %s", r.RevocationReasonText)
		}
	}
	if k, ok := e.PrimaryKey.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < minRSA {
		return fmt.Errorf("the RSA key is too short: %d bits", k.N.BitLen())
	}
	return nil
}
