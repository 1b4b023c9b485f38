package signature

import (
	"bytes"
	"errors"
	"fmt"
)

// How signatures begin.
const (
	pgpBegin = "-----BEGIN PGP SIGNATURE-----"
	sshBegin = "-----BEGIN SSH SIGNATURE-----"
)

// ErrUnsigned says that a Git object has no signature.
var ErrUnsigned = errors.New("git object is not signed")

// Git checks that a commit or an annotated tag, as git stores it, is signed by one of the keys: armored OpenPGP keys, or lines
// of authorized_keys, as the signature needs.
func Git(object, keys []byte, policy Policy) error {
	signed, sig := split(object)
	switch {
	case len(sig) == 0:
		return ErrUnsigned
	case bytes.HasPrefix(sig, []byte(pgpBegin)):
		return PGP(bytes.NewReader(signed), sig, keys, policy)
	case bytes.HasPrefix(sig, []byte(sshBegin)):
		return SSH(signed, sig, keys, "git")
	}
	return fmt.Errorf("the Git object has a signature of an unknown kind")
}

// split takes a signature out of an object: what remains is what was signed. A commit has it in a header, whose further
// lines begin with a blank, and a tag at the end of its message.
func split(object []byte) (signed, sig []byte) {
	if bytes.HasPrefix(object, []byte("object ")) {
		return splitTag(object)
	}
	rest := object
	in := false
	for len(rest) > 0 {
		line, after, found := bytes.Cut(rest, []byte("\n"))
		if len(line) == 0 {
			break // the message
		}
		rest = after
		begins := false
		for _, name := range []string{"gpgsig ", "gpgsig-sha256 "} {
			if v, ok := bytes.CutPrefix(line, []byte(name)); ok {
				begins, in = true, true
				sig = append(append(sig, v...), '\n')
			}
		}
		switch {
		case begins:
		case in && line[0] == ' ':
			sig = append(append(sig, line[1:]...), '\n')
		default:
			in = false
			signed = append(signed, line...)
			if found {
				signed = append(signed, '\n')
			}
		}
	}
	return append(signed, rest...), sig
}

func splitTag(object []byte) (signed, sig []byte) {
	at := -1
	for _, begin := range []string{pgpBegin, sshBegin} {
		// The last one: what comes before it is signed with the rest.
		if i := bytes.LastIndex(object, []byte("\n"+begin)); i >= 0 && i+1 > at {
			at = i + 1
		}
	}
	if at < 0 {
		return object, nil
	}
	return object[:at], object[at:]
}
