package registrytest

import (
	"net/http"
	"slices"
)

// A Request is what a registry or token server was asked.
type Request struct {
	Kind          Kind
	Method        string
	Host          string
	Path          string
	Query         string
	Authorization string
	Range         string
	UserAgent     string
	TLS           bool
	ClientCert    bool // the client showed a certificate
}

func requestOf(req *http.Request, kind Kind) Request {
	return Request{
		Kind: kind, Method: req.Method, Host: req.Host, Path: req.URL.Path, Query: req.URL.RawQuery,
		Authorization: req.Header.Get("Authorization"), Range: req.Header.Get("Range"), UserAgent: req.UserAgent(),
		TLS: req.TLS != nil, ClientCert: req.TLS != nil && len(req.TLS.PeerCertificates) > 0,
	}
}

func (r *Registry) record(req *http.Request, kind Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, requestOf(req, kind))
}

// Requests returns what was asked so far, in order.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Count returns how many requests there were of a method and kind; empty ones mean any.
func (r *Registry) Count(method string, kind Kind) int {
	n := 0
	for _, q := range r.Requests() {
		if (method == "" || q.Method == method) && (kind == "" || q.Kind == kind) {
			n++
		}
	}
	return n
}

// Forget empties the record.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}
