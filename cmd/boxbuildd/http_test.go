package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Pages of the web reach nothing: at an address that is open to all no page does, and at one for clients with certificates
// none of another place. Clients of web sockets, which name an origin though they are no browsers, are let in where no
// browser can be.
func TestNoBrowsers(t *testing.T) {
	const refused, fine = http.StatusForbidden, http.StatusOK
	for _, tt := range []struct {
		how                trust
		host, origin, site string
		want               int
	}{
		{local, "docker", "http://localhost", "", fine},
		{local, "docker", "", "", fine},
		{open, "localhost:2375", "", "", fine},
		{open, "localhost:2375", "", "none", fine},
		{open, "127.0.0.1:2375", "http://localhost", "", refused},
		{open, "127.0.0.1:2375", "", "same-origin", refused},
		{open, "evil.example", "", "", refused},
		{certified, "box.example:2376", "", "", fine},
		{certified, "box.example:2376", "http://localhost", "", fine},
		{certified, "box.example:2376", "http://127.0.0.1:80", "", fine},
		{certified, "box.example:2376", "https://Box.example:2376", "same-origin", fine},
		{certified, "box.example:2376", "https://evil.example", "", refused},
		{certified, "box.example:2376", "https://localhost.evil.example", "", refused},
		{certified, "box.example:2376", "http://10.0.0.1", "", refused},
		{certified, "box.example:2376", "null", "", refused},
		{certified, "box.example:2376", "", "cross-site", refused},
		{certified, "box.example:2376", "http://localhost", "cross-site", refused},
	} {
		r := httptest.NewRequest(http.MethodGet, "/containers/x/attach/ws", nil)
		r = r.WithContext(context.WithValue(t.Context(), trustKey{}, tt.how))
		r.Host = tt.host
		for name, value := range map[string]string{"Origin": tt.origin, "Sec-Fetch-Site": tt.site} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		noBrowsers(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%+v: %d", tt, w.Code)
		}
	}
}
