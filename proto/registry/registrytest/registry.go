package registrytest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Behaviour is how a registry differs from one that does everything. It must not change while requests are served.
type Behaviour struct {
	NoHead     bool   // HEAD of a manifest answers 405
	NoDigest   bool   // manifests come without Docker-Content-Digest
	NoMount    bool   // mounting always begins an upload
	NoRange    bool   // blobs always come whole
	NoLength   bool   // blobs come in chunks of unknown sum
	TagPage    int    // lists of tags come in pages of so many; 0 for whole
	Referrers  bool   // what refers to a manifest is listed, two at a time
	MaxRequest int64  // a longer PUT or PATCH answers 413; 0 for no limit
	RedirectTo string // GET of a blob redirects there, the path appended: "https://storage.example"
	UploadTo   string // locations of uploads are on this host: "https://upload.example"; empty for relative ones
	Dir        string // keeps blobs as files there; empty for memory
	Auth       *Auth  // nil to let everybody do everything
}

// A Registry is a registry. Make one with New.
type Registry struct {
	Behaviour

	mu       sync.Mutex // guards what follows
	blobs    map[string]content
	repos    map[string]*repo
	uploads  map[string]*upload
	faults   []*Fault
	requests []Request
	nextID   int
}

type repo struct {
	blobs     map[string]bool
	manifests map[string]manifest // by digest
	tags      map[string]string
}

type manifest struct {
	mediaType string
	bytes     []byte
}

// New returns an empty registry.
func New(b Behaviour) *Registry {
	return &Registry{Behaviour: b, blobs: map[string]content{}, repos: map[string]*repo{}, uploads: map[string]*upload{}}
}

// repoLocked returns a repository, making it if there is none.
func (r *Registry) repoLocked(name string) *repo {
	rp, ok := r.repos[name]
	if !ok {
		rp = &repo{blobs: map[string]bool{}, manifests: map[string]manifest{}, tags: map[string]string{}}
		r.repos[name] = rp
	}
	return rp
}

// Digest returns the sha256 digest of b.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// PutBlob stores a blob in a repository and returns its digest.
func (r *Registry) PutBlob(repo string, b []byte) string {
	d := Digest(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[d] = content{mem: b}
	r.repoLocked(repo).blobs[d] = true
	return d
}

// PutManifest stores a document under its digest, and under a tag if that is not empty. Nothing about it is checked.
func (r *Registry) PutManifest(repo, tag, mediaType string, b []byte) string {
	d := Digest(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	rp := r.repoLocked(repo)
	rp.manifests[d] = manifest{mediaType, b}
	if tag != "" {
		rp.tags[tag] = d
	}
	return d
}

// PutImage stores an OCI image with the given config and layers, and returns its manifest and that one's digest.
func (r *Registry) PutImage(repo, tag string, config []byte, layers ...[]byte) (digest string, manifest []byte) {
	const oci = "application/vnd.oci.image."
	desc := func(mediaType string, b []byte) map[string]any {
		return map[string]any{"mediaType": mediaType, "digest": r.PutBlob(repo, b), "size": len(b)}
	}
	ls := []any{}
	for _, l := range layers {
		ls = append(ls, desc(oci+"layer.v1.tar", l))
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": desc(oci+"config.v1+json", config), "layers": ls,
	})
	if err != nil {
		panic(err)
	}
	return r.PutManifest(repo, tag, oci+"manifest.v1+json", manifest), manifest
}

// Manifest returns what a tag or digest names, and false if there is nothing.
func (r *Registry) Manifest(repo, ref string) (mediaType string, b []byte, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rp := r.repoLocked(repo)
	if d, ok := rp.tags[ref]; ok {
		ref = d
	}
	m, ok := rp.manifests[ref]
	return m.mediaType, m.bytes, ok
}

// Blob returns the bytes of a blob in a repository, and false if it is not there.
func (r *Registry) Blob(repo, digest string) ([]byte, bool) {
	r.mu.Lock()
	ok := r.repoLocked(repo).blobs[digest]
	c := r.blobs[digest]
	r.mu.Unlock()
	if !ok {
		return nil, false
	}
	b, err := c.bytes()
	return b, err == nil
}

// Uploads returns how many upload sessions are open.
func (r *Registry) Uploads() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.uploads)
}

var (
	manifestPath = regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`)
	blobPath     = regexp.MustCompile(`^/v2/(.+)/blobs/([^/]+)$`)
	refersPath   = regexp.MustCompile(`^/v2/(.+)/referrers/([^/]+)$`)
	tagsPath     = regexp.MustCompile(`^/v2/(.+)/tags/list$`)
	uploadPath   = regexp.MustCompile(`^/v2/(.+)/blobs/uploads/([^/]*)$`)
)

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	kind, name, rest := classify(req)
	r.record(req, kind)
	if w = r.applyFault(w, req, kind); w == nil {
		return
	}
	if r.Auth != nil && !r.Auth.allow(w, req, name) {
		return
	}
	switch kind {
	case Ping:
		w.WriteHeader(http.StatusOK)
	case Manifest:
		r.serveManifest(w, req, name, rest)
	case Blob:
		r.serveBlob(w, req, name, rest)
	case Upload, Mount:
		r.serveUpload(w, req, name, rest)
	case Tags:
		r.serveTags(w, req, name)
	case Referrers:
		r.serveReferrers(w, req, name, rest)
	default:
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such route")
	}
}

func classify(req *http.Request) (kind Kind, name, rest string) {
	p := req.URL.Path
	if p == "/v2/" || p == "/v2" {
		return Ping, "", ""
	}
	if m := uploadPath.FindStringSubmatch(p); m != nil {
		if req.URL.Query().Has("mount") {
			return Mount, m[1], m[2]
		}
		return Upload, m[1], m[2]
	}
	if m := tagsPath.FindStringSubmatch(p); m != nil {
		return Tags, m[1], ""
	}
	if m := refersPath.FindStringSubmatch(p); m != nil {
		return Referrers, m[1], m[2]
	}
	if m := manifestPath.FindStringSubmatch(p); m != nil {
		return Manifest, m[1], m[2]
	}
	if m := blobPath.FindStringSubmatch(p); m != nil {
		return Blob, m[1], m[2]
	}
	return Other, "", ""
}

// fail writes an error document of the distribution specification.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{ //nolint:errcheck // the client has left
		"errors": []any{map[string]string{"code": code, "message": message}},
	})
}

// serveTags answers with the tags of a repository in order, or with a page of them.
func (r *Registry) serveTags(w http.ResponseWriter, req *http.Request, name string) {
	r.mu.Lock()
	rp, ok := r.repos[name]
	tags := []string{}
	if ok {
		tags = slices.AppendSeq(tags, maps.Keys(rp.tags))
	}
	r.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	slices.Sort(tags)
	tags = slices.DeleteFunc(tags, func(t string) bool { return t <= req.URL.Query().Get("last") })
	if n := r.TagPage; n > 0 && len(tags) > n {
		tags = tags[:n]
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?last=%s&n=%d>; rel="next"`, name, tags[n-1], n))
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"name": name, "tags": tags}) //nolint:errcheck // the client has left
}

// serveReferrers answers with the manifests of a repository that have one as their subject, in order, two at a time.
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, name, digest string) {
	if !r.Referrers {
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such route")
		return
	}
	list := []map[string]any{}
	r.mu.Lock()
	manifests := r.repoLocked(name).manifests
	for _, d := range slices.Sorted(maps.Keys(manifests)) {
		m := manifests[d]
		var doc struct {
			Subject      struct{ Digest string }
			ArtifactType string
			Annotations  map[string]string
		}
		if json.Unmarshal(m.bytes, &doc) == nil && doc.Subject.Digest == digest {
			list = append(list, map[string]any{
				"mediaType": m.mediaType, "digest": d, "size": len(m.bytes), "artifactType": doc.ArtifactType, "annotations": doc.Annotations,
			})
		}
	}
	r.mu.Unlock()
	list = slices.DeleteFunc(list, func(d map[string]any) bool { return fmt.Sprint(d["digest"]) <= req.URL.Query().Get("after") })
	if len(list) > 2 {
		list = list[:2]
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/referrers/%s?after=%s>; rel="next"`, name, digest, list[1]["digest"]))
	}
	const index = "application/vnd.oci.image.index.v1+json"
	w.Header().Set("Content-Type", index)
	json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": list}) //nolint:errcheck // the client has left
}

func (r *Registry) serveManifest(w http.ResponseWriter, req *http.Request, name, ref string) {
	if req.Method == http.MethodPut {
		r.putManifest(w, req, name, ref)
		return
	}
	if req.Method == http.MethodHead && r.NoHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	mt, b, ok := r.Manifest(name, ref)
	if !ok {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	w.Header().Set("Content-Type", mt)
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	if !r.NoDigest {
		w.Header().Set("Docker-Content-Digest", Digest(b))
	}
	w.WriteHeader(http.StatusOK)
	if req.Method == http.MethodGet {
		w.Write(b) //nolint:errcheck // the client has left
	}
}

// putManifest stores a document if everything that it refers to is there, as registries demand.
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, name, ref string) {
	b, err := readAll(req.Body)
	if err != nil {
		return
	}
	var doc struct {
		Config    struct{ Digest string }
		Manifests []struct{ Digest string }
		Layers    []struct {
			Digest string
			URLs   []string
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		fail(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
		return
	}
	r.mu.Lock()
	rp := r.repoLocked(name)
	missing := ""
	for _, l := range doc.Layers {
		if !rp.blobs[l.Digest] && len(l.URLs) == 0 { // or else it is to be had elsewhere
			missing = l.Digest
		}
	}
	if d := doc.Config.Digest; d != "" && !rp.blobs[d] {
		missing = d
	}
	for _, m := range doc.Manifests {
		if _, ok := rp.manifests[m.Digest]; !ok {
			missing = m.Digest
		}
	}
	r.mu.Unlock()
	if missing != "" {
		fail(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry: "+missing)
		return
	}
	tag := ref
	if strings.Contains(ref, ":") {
		if tag = ""; ref != Digest(b) {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID", "the digest is not that of the manifest")
			return
		}
	}
	d := r.PutManifest(name, tag, req.Header.Get("Content-Type"), b)
	w.Header().Set("Docker-Content-Digest", d)
	w.Header().Set("Location", "/v2/"+name+"/manifests/"+d)
	w.WriteHeader(http.StatusCreated)
}
