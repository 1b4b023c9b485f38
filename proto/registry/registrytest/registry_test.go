package registrytest

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/nettest"
)

// The connections of a Network behave like those of a real one.
func TestPipe(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2 = newPipe("test:1")
		return c1, c2, func() {
			c1.Close()
			c2.Close()
		}, nil
	})
}

// The registry keeps repositories apart, takes content only if it is what its digest says, and counts what is asked.
func TestRegistry(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		r := New(Behaviour{Dir: dir})
		base := "http://" + Start(t, r)
		do := func(method, path, body string) *http.Response {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { resp.Body.Close() })
			return resp
		}
		upload := func(body, digest string) *http.Response {
			t.Helper()
			at := do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
			return do("PUT", at+"&digest="+digest, body)
		}
		d := Digest([]byte("content"))
		if s := upload("other", d).StatusCode; s != http.StatusBadRequest {
			t.Errorf("other content: %d", s)
		}
		if s := upload("content", d).StatusCode; s != http.StatusCreated {
			t.Errorf("content: %d", s)
		}
		if b, ok := r.Blob("a", d); !ok || string(b) != "content" || r.Uploads() != 0 {
			t.Errorf("stored %q, %v, %d uploads open", b, ok, r.Uploads())
		}
		if b, err := io.ReadAll(do("GET", "/v2/a/blobs/"+d, "").Body); err != nil || string(b) != "content" {
			t.Errorf("read %q, %v", b, err)
		}
		if s := do("GET", "/v2/b/blobs/"+d, "").StatusCode; s != http.StatusNotFound {
			t.Errorf("in another repository: %d", s)
		}
		if s := do("PUT", "/v2/a/manifests/1", `{"layers":[{"digest":"`+Digest(nil)+`"}]}`).StatusCode; s != http.StatusBadRequest {
			t.Errorf("a manifest without its layer: %d", s)
		}
		if n := r.Count("PUT", Upload); n != 2 {
			t.Errorf("%d uploads counted", n)
		}
	}
}

// A fault hits the requests that it is for, as often as it says.
func TestFault(t *testing.T) {
	r := New(Behaviour{})
	base := "http://" + Start(t, r)
	r.Fail(Fault{Kind: Ping, Method: "GET", After: 1, Times: 2, Status: 503})
	var got []int
	for range 4 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/v2/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		got = append(got, resp.StatusCode)
	}
	if want := [4]int{200, 503, 503, 200}; [4]int(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
