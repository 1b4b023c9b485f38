package registrytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Auth is how a registry lets people in: Basic or Tokens.
type Auth struct {
	Basic  map[string]string // user to password
	Tokens *TokenServer
	Realm  string // the token server's URL as the registry tells it
}

// allow answers 401 and returns false for a request that may not be made.
func (a *Auth) allow(w http.ResponseWriter, req *http.Request, repo string) bool {
	if a.Tokens == nil {
		user, password, ok := req.BasicAuth()
		if want, known := a.Basic[user]; ok && known && want == password {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="registrytest"`)
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return false
	}
	action := "push"
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		action = "pull"
	}
	value, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	ok := a.Tokens.allows(value, repo, action)
	if from := req.URL.Query().Get("from"); ok && from != "" {
		// A token that does not cover the repository to mount from is no error, but the mount is not made.
		if !a.Tokens.allows(value, from, "pull") {
			req.URL.RawQuery = ""
		}
	}
	if ok {
		return true
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service=%q,scope="repository:%s:%s"`,
		a.Realm, a.Tokens.Service, repo, action))
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// A TokenServer gives out bearer tokens: by GET with basic authentication or anonymously, and by OAuth2 POST for a
// refresh token. Its fields must not change while requests are served.
type TokenServer struct {
	Service  string
	Users    map[string]string // user to password; they may do everything
	Identity map[string]bool   // refresh tokens; their owners may do everything
	Public   bool              // whoever has no credentials may pull
	Lifetime time.Duration     // 0 means that answers do not say, which is one minute

	mu       sync.Mutex // guards what follows
	tokens   map[string]granted
	requests []Request
	forms    []string
	next     int
}

type granted struct {
	scopes []string
	until  time.Time
}

// Requests returns what the server was asked.
func (s *TokenServer) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Forms returns the bodies of the POST requests, encoded.
func (s *TokenServer) Forms() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.forms)
}

// Revoke makes every token that was given out worthless.
func (s *TokenServer) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = nil
}

// ServeHTTP implements http.Handler.
func (s *TokenServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if err := req.ParseForm(); err != nil {
		fail(w, http.StatusBadRequest, "", err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, requestOf(req, Token))
	known, scopes := false, req.Form["scope"]
	if req.Method == http.MethodPost {
		s.forms = append(s.forms, req.PostForm.Encode())
		known = req.Form.Get("grant_type") == "refresh_token" && s.Identity[req.Form.Get("refresh_token")]
		scopes = strings.Fields(req.Form.Get("scope"))
	} else if user, password, ok := req.BasicAuth(); ok {
		want, exists := s.Users[user]
		if known = exists && want == password; !known {
			w.WriteHeader(http.StatusUnauthorized)
			w.Write([]byte(`{"details":"incorrect username or password"}`)) //nolint:errcheck // the client has left
			return
		}
	}
	if !known && !s.Public {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if !known {
		for i := range scopes {
			scopes[i] = strings.TrimSuffix(scopes[i], ",push")
		}
	}
	s.grantLocked(w, req, scopes)
}

// grantLocked answers with a new token.
func (s *TokenServer) grantLocked(w http.ResponseWriter, req *http.Request, scopes []string) {
	s.next++
	value := fmt.Sprintf("token-%d", s.next)
	life := s.Lifetime
	if life == 0 {
		life = time.Minute
	}
	if s.tokens == nil {
		s.tokens = map[string]granted{}
	}
	s.tokens[value] = granted{scopes, time.Now().Add(life)}
	doc := map[string]any{"token": value}
	if req.Method == http.MethodPost {
		doc = map[string]any{"access_token": value}
	}
	if s.Lifetime > 0 {
		doc["expires_in"] = int(s.Lifetime.Seconds())
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(doc) //nolint:errcheck // the client has left
}

// allows says whether a token lets its bearer do something; the zero repository is /v2/.
func (s *TokenServer) allows(value, repo, action string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[value]
	if !ok || !time.Now().Before(t.until) {
		return false
	}
	if repo == "" {
		return true
	}
	for _, sc := range t.scopes {
		if actions, ok := strings.CutPrefix(sc, "repository:"+repo+":"); ok &&
			slices.Contains(strings.Split(actions, ","), action) {
			return true
		}
	}
	return false
}
