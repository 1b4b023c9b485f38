package blob

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// partialName is the name of the partial file of d.
func partialName(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

// Partials returns the partial files that nobody writes: what downloads that broke off have left, each under the digest
// that it is the beginning of.
func (s *Store) Partials() ([]Info, error) {
	ents, err := os.ReadDir(filepath.Join(s.dir, "partial"))
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, e := range ents {
		alg, hex, _ := strings.Cut(e.Name(), "-")
		d := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
		if Validate(d) != nil {
			continue // it was not made here
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		_, busy := s.downloads[d]
		s.mu.Unlock()
		if !busy {
			out = append(out, Info{Digest: d, Size: info.Size(), Written: info.ModTime()})
		}
	}
	return out, nil
}

// DeletePartial removes the partial file of d, unless somebody writes it, and says whether it has. A file that is not
// there is no error.
func (s *Store) DeletePartial(d digest.Digest) (bool, error) {
	if err := Validate(d); err != nil {
		return false, err
	}
	s.mu.Lock()
	if _, busy := s.downloads[d]; busy {
		s.mu.Unlock()
		return false, nil
	}
	mine := make(chan struct{}) // who comes to download it waits until the file has gone
	s.downloads[d] = mine
	s.mu.Unlock()
	err := os.Remove(filepath.Join(s.dir, "partial", partialName(d)))
	s.mu.Lock()
	delete(s.downloads, d)
	s.mu.Unlock()
	close(mine)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
