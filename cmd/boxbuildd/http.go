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

// newHTTP returns the server for HTTP/1.1, on which handler answers who is no page of the web.
func newHTTP(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: noBrowsers(handler), ReadHeaderTimeout: sniffTimeout, IdleTimeout: 2 * time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if c, ok := c.(*sniffed); ok {
				ctx = context.WithValue(ctx, trustKey{}, c.trust)
			}
			return ctx
		},
	}
}

// trustOf is how the client of a request is trusted.
func trustOf(r *http.Request) trust {
	how, _ := r.Context().Value(trustKey{}).(trust)
	return how
}

// noBrowsers refuses what pages of the web make browsers send. A browser tells the page's origin; one that was made to
// believe that a foreign name is this machine's tells that name as the host.
func noBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch site := r.Header.Get("Sec-Fetch-Site"); {
		case r.Header.Get("Origin") != "", site != "" && site != "none":
			refuse(w, http.StatusForbidden, "requests of web pages are refused")
		case trustOf(r) == open && !ownName(r.Host):
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

func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message}) // the client may be gone
}
