package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"net/url"
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
// believe that a foreign name is this machine's tells that name as the host. No browser reaches a socket in the file system,
// and clients of web sockets have to name some origin, so there nothing is refused. One that has a client certificate shows
// it for any page: but for pages of this address, and what names its own machine, it is refused as well.
func noBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		how, site, origin := trustOf(r), r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Origin")
		switch {
		case how == local:
			next.ServeHTTP(w, r)
		case how == certified && (site == "cross-site" || site == "same-site" || origin != "" && !ownOrigin(origin, r.Host)),
			how == open && (origin != "" || site != "" && site != "none"):
			refuse(w, http.StatusForbidden, "requests of web pages are refused")
		case how == open && !ownName(r.Host):
			refuse(w, http.StatusForbidden, "this is not "+r.Host)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// ownOrigin says whether an Origin is the address itself that a request goes to, or the client's machine.
func ownOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return strings.EqualFold(u.Host, host) || strings.EqualFold(u.Hostname(), "localhost") || err == nil && a.IsLoopback()
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
