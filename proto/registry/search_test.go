package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// A registry that can search is asked to; of others the catalog is read, page by page; what offers neither is an error,
// and so is an answer that is none.
func TestSearch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		serve  func(w http.ResponseWriter, r *http.Request)
		limit  int
		want   string
		failed func(error) bool
	}{
		{
			name: "search", limit: 2, want: "[{a/box first 5 true} {b/box  0 false}]",
			serve: func(w http.ResponseWriter, r *http.Request) {
				if q := r.URL.Query(); r.URL.Path != "/v1/search" || q.Get("q") != "box" || q.Get("n") != "2" {
					t.Errorf("asked for %s", r.URL)
				}
				_, _ = io.WriteString(w, `{"results":[{"name":"a/box","description":"first","star_count":5,"is_official":true},{"name":"b/box"},{"name":"c"}]}`)
			},
		},
		{
			name: "catalog", limit: 3, want: "[{a/box  0 false} {z/boxes  0 false}]",
			serve: func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path != "/v2/_catalog":
					http.NotFound(w, r)
				case r.URL.Query().Get("last") == "":
					w.Header().Set("Link", `</v2/_catalog?last=b&n=2>; rel="next"`)
					_, _ = io.WriteString(w, `{"repositories":["a/box","b"]}`)
				default:
					w.Header().Set("Link", `</v2/_catalog?last=b&n=2>; rel="next"`) // a registry that does not come to an end
					_, _ = io.WriteString(w, `{"repositories":["UPPER/box","z/boxes"]}`)
				}
			},
		},
		{
			name: "neither", limit: 3, serve: http.NotFound,
			failed: func(err error) bool { return errors.Is(err, ErrNotFound) },
		},
		{
			name: "nonsense", limit: 3, serve: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
			failed: func(err error) bool { return strings.Contains(err.Error(), "reading the answer") },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(tt.serve))
			defer srv.Close()
			u, err := url.Parse(srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			c, err := New(Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got, err := c.Search(t.Context(), u.Host, "box", tt.limit)
			if tt.failed != nil {
				if err == nil || !tt.failed(err) {
					t.Errorf("%v, %v", got, err)
				}
				return
			}
			if err != nil || fmt.Sprint(got) != tt.want {
				t.Errorf("%v, %v, want %s", got, err, tt.want)
			}
		})
	}
}

// Docker Hub is asked as well: with a context that has ended nothing else is in the way.
func TestSearchHub(t *testing.T) {
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Search(ctx, dockerHub, "box", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
