package registrytest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// content is a blob's bytes: in memory, or in a file.
type content struct {
	mem  []byte
	path string
}

func (c content) open() (io.ReadSeekCloser, error) {
	if c.path != "" {
		return os.Open(c.path)
	}
	return struct {
		io.ReadSeeker
		io.Closer
	}{bytes.NewReader(c.mem), io.NopCloser(nil)}, nil
}

func (c content) bytes() ([]byte, error) {
	r, err := c.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, 64<<20)) }

func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, name, digest string) {
	r.mu.Lock()
	ok := r.repoLocked(name).blobs[digest]
	c := r.blobs[digest]
	r.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	if r.RedirectTo != "" && req.Method == http.MethodGet {
		http.Redirect(w, req, r.RedirectTo+req.URL.Path+"?signature=secret", http.StatusTemporaryRedirect)
		return
	}
	body, err := c.open()
	if err != nil {
		fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	defer body.Close()
	if r.NoRange {
		req.Header.Del("Range")
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest)
	if r.NoLength && req.Method == http.MethodGet {
		w.WriteHeader(http.StatusOK)
		io.Copy(w, body) //nolint:errcheck // the client has left
		return
	}
	http.ServeContent(w, req, "", time.Time{}, body)
}

// An upload is an open session.
type upload struct {
	repo string
	buf  bytes.Buffer
	file *os.File // instead of buf if there is a directory
	hash hash.Hash
	size int64
}

func (r *Registry) serveUpload(w http.ResponseWriter, req *http.Request, name, id string) {
	if r.MaxRequest > 0 && req.ContentLength > r.MaxRequest {
		fail(w, http.StatusRequestEntityTooLarge, "", "")
		return
	}
	if req.Method == http.MethodPost && id == "" {
		r.startUpload(w, req, name)
		return
	}
	r.mu.Lock()
	up := r.uploads[id]
	r.mu.Unlock()
	if up == nil || up.repo != name {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
		return
	}
	switch req.Method {
	case http.MethodPatch:
		if err := up.write(req); err != nil {
			fail(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", err.Error())
			return
		}
		w.Header().Set("Range", fmt.Sprintf("0-%d", up.size-1))
		r.acceptUpload(w, name, id)
	case http.MethodPut:
		r.finishUpload(w, req, id)
	case http.MethodDelete:
		r.dropUpload(id)
		w.WriteHeader(http.StatusNoContent)
	default:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "")
	}
}

// startUpload mounts, if that was asked for and can be done, and else opens a session.
func (r *Registry) startUpload(w http.ResponseWriter, req *http.Request, name string) {
	mount, from := req.URL.Query().Get("mount"), req.URL.Query().Get("from")
	up := &upload{repo: name, hash: sha256.New()}
	if r.Dir != "" {
		f, err := os.CreateTemp(r.Dir, "upload-")
		if err != nil {
			fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
			return
		}
		up.file = f
	}
	r.mu.Lock()
	if mount != "" && !r.NoMount && r.repoLocked(from).blobs[mount] {
		r.repoLocked(name).blobs[mount] = true
		r.mu.Unlock()
		w.Header().Set("Location", "/v2/"+name+"/blobs/"+mount)
		w.WriteHeader(http.StatusCreated)
		return
	}
	r.nextID++
	id := fmt.Sprintf("u%d", r.nextID)
	r.uploads[id] = up
	r.mu.Unlock()
	r.acceptUpload(w, name, id)
}

func (r *Registry) acceptUpload(w http.ResponseWriter, name, id string) {
	w.Header().Set("Location", r.UploadTo+"/v2/"+name+"/blobs/uploads/"+id+"?_state=opaque")
	w.WriteHeader(http.StatusAccepted)
}

// write appends a request's body, at the place that it names.
func (u *upload) write(req *http.Request) error {
	if cr := req.Header.Get("Content-Range"); cr != "" && !strings.HasPrefix(cr, fmt.Sprintf("%d-", u.size)) {
		return fmt.Errorf("the range %s does not begin at %d", cr, u.size)
	}
	var dst io.Writer = &u.buf
	if u.file != nil {
		dst = u.file
	}
	n, err := io.Copy(io.MultiWriter(dst, u.hash), req.Body)
	u.size += n
	return err
}

func (r *Registry) finishUpload(w http.ResponseWriter, req *http.Request, id string) {
	r.mu.Lock()
	up := r.uploads[id]
	r.mu.Unlock()
	err := up.write(req)
	want := req.URL.Query().Get("digest")
	got := "sha256:" + hex.EncodeToString(up.hash.Sum(nil))
	if err != nil || got != want || req.URL.Query().Get("_state") != "opaque" {
		r.dropUpload(id)
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")
		return
	}
	c := content{mem: up.buf.Bytes()}
	if up.file != nil {
		c = content{path: filepath.Join(r.Dir, strings.ReplaceAll(got, ":", "-"))}
		if err := os.Rename(up.file.Name(), c.path); err != nil {
			fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
			return
		}
		up.file.Close()
	}
	r.mu.Lock()
	delete(r.uploads, id)
	r.blobs[got] = c
	r.repoLocked(up.repo).blobs[got] = true
	r.mu.Unlock()
	w.Header().Set("Docker-Content-Digest", got)
	w.Header().Set("Location", "/v2/"+up.repo+"/blobs/"+got)
	w.WriteHeader(http.StatusCreated)
}

func (r *Registry) dropUpload(id string) {
	r.mu.Lock()
	up := r.uploads[id]
	delete(r.uploads, id)
	r.mu.Unlock()
	if up != nil && up.file != nil {
		up.file.Close()
		os.Remove(up.file.Name())
	}
}
