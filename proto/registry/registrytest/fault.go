package registrytest

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// A Kind is a class of requests.
type Kind string

// The kinds.
const (
	Ping      Kind = "ping"
	Manifest  Kind = "manifest"
	Blob      Kind = "blob"
	Mount     Kind = "mount"
	Upload    Kind = "upload"
	Token     Kind = "token"
	Tags      Kind = "tags"
	Referrers Kind = "referrers"
	Other     Kind = "other"
)

// A Fault makes requests go wrong. The zero value of a condition matches everything; the zero value of an effect has
// none.
type Fault struct {
	// Conditions.
	Kind   Kind
	Method string
	Match  string // a part of the path
	After  int    // lets this many matching requests pass first
	Times  int    // how many requests are hit; 0 for all

	// Effects.
	Delay       time.Duration // before anything else
	Status      int           // answer with this instead
	RetryAfter  string        // with Status: the header
	Code        string        // with Status: the error's code
	Message     string        // with Status: the error's words
	CutAfter    int64         // close the connection after this many bytes of the answer's body
	CutRequest  int64         // close the connection after this many bytes of the request's body
	Drop        bool          // close the connection without an answer
	StallAfter  int64         // send nothing more after this many bytes of the body, until the client leaves
	Corrupt     bool          // change the first byte of the body
	Digest      string        // Docker-Content-Digest of the answer
	ContentType string        // of the answer

	seen int
}

// Fail adds a fault. Of several that match the one added last decides.
func (r *Registry) Fail(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &f)
}

// Heal removes all faults.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

// hit returns the fault for a request, or nil.
func (r *Registry) hit(req *http.Request, kind Kind) *Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.faults) - 1; i >= 0; i-- {
		f := r.faults[i]
		if f.Kind != "" && f.Kind != kind || f.Method != "" && f.Method != req.Method ||
			!strings.Contains(req.URL.Path, f.Match) {
			continue
		}
		f.seen++
		if f.seen <= f.After || f.Times > 0 && f.seen > f.After+f.Times {
			continue
		}
		return f
	}
	return nil
}

// applyFault returns the writer to answer with, or nil if the fault has answered.
func (r *Registry) applyFault(w http.ResponseWriter, req *http.Request, kind Kind) http.ResponseWriter {
	f := r.hit(req, kind)
	if f == nil {
		return w
	}
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-req.Context().Done():
		}
	}
	switch {
	case f.Drop:
		panic(http.ErrAbortHandler)
	case f.CutRequest > 0:
		io.CopyN(io.Discard, req.Body, f.CutRequest) //nolint:errcheck // the client has left
		panic(http.ErrAbortHandler)
	case f.Status > 0:
		io.Copy(io.Discard, req.Body) //nolint:errcheck // the client has left
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		fail(w, f.Status, f.Code, f.Message)
		return nil
	}
	return &faultWriter{ResponseWriter: w, f: f, req: req}
}

// A faultWriter spoils an answer while it is written.
type faultWriter struct {
	http.ResponseWriter
	f    *Fault
	req  *http.Request
	n    int64
	sent bool
}

func (w *faultWriter) WriteHeader(status int) {
	w.sent = true
	if w.f.Digest != "" {
		w.Header().Set("Docker-Content-Digest", w.f.Digest)
	}
	if w.f.ContentType != "" {
		w.Header().Set("Content-Type", w.f.ContentType)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *faultWriter) Write(p []byte) (int, error) {
	if !w.sent {
		w.WriteHeader(http.StatusOK)
	}
	if w.f.Corrupt && w.n == 0 && len(p) > 0 {
		p = append([]byte{p[0] ^ 0xff}, p[1:]...)
	}
	limit := max(w.f.CutAfter, w.f.StallAfter)
	if limit > 0 && w.n+int64(len(p)) > limit {
		n, _ := w.ResponseWriter.Write(p[:limit-w.n])
		w.n += int64(n)
		http.NewResponseController(w.ResponseWriter).Flush()
		if w.f.StallAfter > 0 {
			<-w.req.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}
