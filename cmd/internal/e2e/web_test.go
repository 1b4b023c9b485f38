package e2e

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// startWeb serves $WORK/www by HTTP and sets WEB to the server's address, and AWAY to that of another one with the same
// files. Each file has an entity tag that follows from its content. What is asked of them is in the files $WORK/asked and
// $WORK/asked-away: method, path, status, and the Authorization header if there is one.
//
// Some paths do more: /private/F wants "Bearer sesame"; /away/F leads to F at the other server; /back/F leads there and
// back; /flaky/F fails every other time; /cut/F breaks off in the middle every other time; /named/N/F calls F N;
// /to?URL leads to URL.
func startWeb(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 0 || neg {
		ts.Fatalf("usage: web")
	}
	work := ts.Getenv("WORK")
	away := &web{dir: filepath.Join(work, "www"), log: filepath.Join(work, "asked-away")}
	near := &web{dir: away.dir, log: filepath.Join(work, "asked")}
	for _, s := range []struct {
		w   *web
		env string
	}{{away, "AWAY"}, {near, "WEB"}} {
		server := httptest.NewServer(s.w)
		ts.Defer(server.Close)
		s.w.self = server.URL
		ts.Setenv(s.env, strings.TrimPrefix(server.URL, "http://"))
	}
	near.other, away.other = away.self, near.self
}

// A web is one server.
type web struct {
	dir, log, self, other string

	mu    sync.Mutex // guards tries, and the order of lines
	tries map[string]int
}

// ServeHTTP implements http.Handler.
func (s *web) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
	abort := s.serve(rec, r)
	s.note(r, rec.status)
	if abort {
		panic(http.ErrAbortHandler)
	}
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (s *web) note(r *http.Request, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(s.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return // a script that needs the line misses it
	}
	defer f.Close()
	fmt.Fprintln(f, strings.TrimSpace(fmt.Sprintf("%s %s %d %s", r.Method, r.URL.RequestURI(), status, r.Header.Get("Authorization"))))
}

// odd says whether this is the first, third, … request for a path.
func (s *web) odd(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tries == nil {
		s.tries = map[string]int{}
	}
	s.tries[path]++
	return s.tries[path]%2 == 1
}

// serve answers r. It says whether the connection is to break off.
func (s *web) serve(w http.ResponseWriter, r *http.Request) (abort bool) {
	word, file, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch word {
	case "private":
		if r.Header.Get("Authorization") != "Bearer sesame" {
			w.WriteHeader(http.StatusUnauthorized)
			return false
		}
	case "away":
		http.Redirect(w, r, s.other+"/"+file, http.StatusFound)
		return false
	case "back":
		http.Redirect(w, r, s.other+"/away/"+file, http.StatusFound)
		return false
	case "to":
		to, _ := url.QueryUnescape(r.URL.RawQuery)
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
		return false
	case "flaky":
		if s.odd(r.URL.Path) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return false
		}
	case "cut":
		abort = s.odd(r.URL.Path)
	case "named":
		var name string
		name, file, _ = strings.Cut(file, "/")
		w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", name))
	default:
		file = strings.TrimPrefix(r.URL.Path, "/")
	}
	s.file(w, r, file, abort)
	return abort
}

func (s *web) file(w http.ResponseWriter, r *http.Request, name string, half bool) {
	path := filepath.Join(s.dir, filepath.FromSlash("/"+name))
	st, err := os.Stat(path)
	if err == nil && st.IsDir() {
		path = filepath.Join(path, "index.html")
		st, err = os.Stat(path)
	}
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("ETag", fmt.Sprintf("\"%x\"", sha256.Sum256(data)))
	w.Header().Set("Content-Type", "application/octet-stream")
	if half {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		w.(*statusRecorder).ResponseWriter.(http.Flusher).Flush()
		return
	}
	f, err := os.Open(path)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	defer f.Close()
	http.ServeContent(w, r, path, st.ModTime(), f)
}
