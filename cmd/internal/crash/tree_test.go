package crash

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// readTar returns the files of a tar by name. An archive that is cut off is an error.
func readTar(data string) (map[string]string, error) {
	files := map[string]string{}
	for r := tar.NewReader(strings.NewReader(data)); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", head.Name, err)
		}
		files[strings.Trim(head.Name, "./")] = string(body)
	}
}

// writeTar makes a tar of headers; an entry's body is its Size in bytes of the text.
func writeTar(entries ...entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		head := e.Header
		head.Size = int64(len(e.text))
		if head.Mode == 0 {
			head.Mode = 0o644
		}
		if head.Typeflag == 0 {
			head.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&head); err != nil {
			panic(err) // the tests' own archives are well-formed
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// An entry of a tar.
type entry struct {
	tar.Header
	text string
}

// file is the entry of an ordinary file.
func file(name, text string) entry { return entry{tar.Header{Name: name}, text} }

// link is the entry of a link; kind is tar.TypeSymlink or tar.TypeLink.
func link(kind byte, name, target string) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777}, ""}
}
