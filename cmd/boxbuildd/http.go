package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// trustKey is where the context of an HTTP connection has how its client is trusted.
type trustKey struct{}

// newHTTP returns the server for HTTP/1.1. What handler does not know, if there is one, is answered as docker does.
func newHTTP(s *server, handler http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", s.ping)
	if handler == nil {
		handler = http.HandlerFunc(notFound)
	}
	mux.Handle("/", handler)
	return &http.Server{
		Handler: noBrowsers(unversioned(mux)), ReadHeaderTimeout: sniffTimeout, IdleTimeout: 2 * time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if c, ok := c.(*sniffed); ok {
				ctx = context.WithValue(ctx, trustKey{}, c.trust)
			}
			return ctx
		},
	}
}

// apiVersion is the version of docker's API that the answers are of. Clients ask for it before anything else, and for less
// if they are older.
const apiVersion = "1.51"

// ping answers whether a builder is here, and of what kind. While the daemon drains it is there still.
func (s *server) ping(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		notFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Api-Version", apiVersion)
	h.Set("Builder-Version", "2") // BuildKit's protocol
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", s.daemon.Platform.OS)
	h.Set("Swarm", "inactive")
	h.Set("Server", "boxbuild/"+version)
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodGet {
		_, _ = w.Write([]byte("OK")) // the client may be gone
	}
}

// unversioned takes the version of the API off a path: /v1.51/_ping is /_ping.
func unversioned(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, rest, found := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v"), "/")
		if found && strings.HasPrefix(r.URL.Path, "/v") && strings.Trim(v, "0123456789.") == "" && v != "" {
			r = r.Clone(r.Context())
			r.URL.Path, r.URL.RawPath = "/"+rest, ""
		}
		next.ServeHTTP(w, r)
	})
}

// noBrowsers refuses what pages of the web make browsers send. A browser tells the page's origin; one that was made to
// believe that a foreign name is this machine's tells that name as the host.
func noBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		how, _ := r.Context().Value(trustKey{}).(trust)
		switch site := r.Header.Get("Sec-Fetch-Site"); {
		case r.Header.Get("Origin") != "", site != "" && site != "none":
			refuse(w, http.StatusForbidden, "requests of web pages are refused")
		case how == open && !ownName(r.Host):
			refuse(w, http.StatusForbidden, "this is not "+r.Host)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// ownName says whether a Host is one that no foreign name can be behind: an address, or localhost.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

// notFound answers as docker does.
func notFound(w http.ResponseWriter, _ *http.Request) {
	refuse(w, http.StatusNotFound, "page not found")
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message}) // the client may be gone
}
