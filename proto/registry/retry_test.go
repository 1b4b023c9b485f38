package registry

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// Retry-After is read in both its forms, and never as a time in the past or beyond reason.
func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, " 7 ": 7 * time.Second, "0": 0, "-5": 0, "soon": 0, "1.5": 0,
		"9223372036854775807":           365 * 24 * time.Hour,
		"99999999999999999999":          0,
		"Thu, 01 Jan 2026 00:01:00 GMT": time.Minute,
		"Wed, 31 Dec 2025 00:00:00 GMT": 0,
	} {
		if got := RetryAfter(http.Header{"Retry-After": {in}}, now); got != want {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
}

// The wait grows with each failure, is random, and stays below its bound.
func TestJitter(t *testing.T) {
	p := &RetryPolicy{Base: time.Second, Max: 5 * time.Second}
	for failures, ceiling := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 5 * time.Second, 40: 5 * time.Second, 1000: 5 * time.Second,
	} {
		var least, most time.Duration = time.Hour, 0
		for range 2000 {
			d := p.Jitter(failures)
			least, most = min(least, d), max(most, d)
		}
		if most > ceiling || most < ceiling*9/10 || least > ceiling/10 {
			t.Errorf("after %d failures: from %v to %v, want from 0 to %v", failures, least, most, ceiling)
		}
	}
}

// Every verb is tried again after the server's faults, and after broken connections, and then succeeds.
func TestRetryEveryVerb(t *testing.T) {
	verbs := map[string]func(context.Context, *world) error{
		"HEAD manifest": func(ctx context.Context, w *world) error {
			_, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1"))
			return err
		},
		"GET manifest": func(ctx context.Context, w *world) error {
			_, _, err := w.c.Get(ctx, repoAt(testHost).Tag("1"))
			return err
		},
		"GET blob": func(ctx context.Context, w *world) error {
			_, err := w.readBlob(ctx, w.putBlob(pattern(2000)))
			return err
		},
		"HEAD blob": func(ctx context.Context, w *world) error {
			_, err := w.c.HasBlob(ctx, repoAt(testHost), describeBytes(nil))
			return err
		},
		"POST mount": func(ctx context.Context, w *world) error {
			_, err := w.c.Mount(ctx, repoAt(testHost), describeBytes(nil), Repo{testHost, "other"})
			return err
		},
		"POST upload": func(ctx context.Context, w *world) error {
			b := pattern(5000)
			_, err := w.c.PushBlob(ctx, repoAt(testHost), describeBytes(b), opener(b), nil)
			return err
		},
		"PUT upload": nil,
		"PUT manifest": func(ctx context.Context, w *world) error {
			_, err := w.c.PushManifest(ctx, repoAt(testHost).Tag("2"), types.OCIImageIndex, []byte(`{"manifests":[]}`))
			return err
		},
		"GET ping": func(ctx context.Context, w *world) error { return w.c.Ping(ctx, testHost) },
	}
	verbs["PUT upload"] = verbs["POST upload"]
	for verb, do := range verbs {
		method, kind, _ := strings.Cut(verb, " ")
		for _, fault := range []registrytest.Fault{
			{Status: 429, RetryAfter: "3"}, {Status: 500}, {Status: 502}, {Status: 503}, {Status: 504}, {Status: 408}, {Drop: true},
		} {
			fault.Method, fault.Kind, fault.Times = method, registrytest.Kind(kind), 2
			t.Run(verb+" "+http.StatusText(fault.Status), func(t *testing.T) {
				inWorld(t, nil, func(ctx context.Context, w *world) {
					w.reg.PutImage("team/app", "1", []byte("{}"))
					w.reg.Fail(fault)
					start := time.Now()
					if err := do(ctx, w); err != nil {
						t.Fatal(err)
					}
					if n := w.reg.Count(method, fault.Kind); n != 3 {
						t.Errorf("%d requests, want 3", n)
					}
					if d := time.Since(start); fault.RetryAfter != "" && (d < 6*time.Second || d > 8*time.Second) {
						t.Errorf("waited %v for two times 3 s", d)
					}
				})
			})
		}
	}
}

// What cannot get better by itself is not tried again, and what never gets better ends; the error tells all.
func TestRetryGivesUp(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault registrytest.Fault
		tries int
		words []string
	}{
		{
			"always 503",
			registrytest.Fault{Status: 503, Code: "UNAVAILABLE", Message: "back soon"},
			5,
			[]string{"pulling the manifest of registry.test/team/app:1", "after 5 attempts", "503 Service Unavailable: UNAVAILABLE: back soon"},
		},
		{
			"long Retry-After",
			registrytest.Fault{Status: 429, RetryAfter: "3600", Code: "TOOMANYREQUESTS"},
			1,
			[]string{"1h0m0s", "429 Too Many Requests: TOOMANYREQUESTS"},
		},
		{"404", registrytest.Fault{Status: 404, Code: "NAME_UNKNOWN"}, 1, []string{"404 Not Found: NAME_UNKNOWN"}},
		{"400", registrytest.Fault{Status: 400}, 1, []string{"400 Bad Request"}},
		{"501", registrytest.Fault{Status: 501}, 1, []string{"501"}},
		{"403", registrytest.Fault{Status: 403, Message: "no\x1b[31m way"}, 1, []string{"403 Forbidden: no[31m way"}},
		{"no answer", registrytest.Fault{Drop: true}, 5, []string{"after 5 attempts"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, nil, func(ctx context.Context, w *world) {
				w.reg.Fail(tt.fault)
				_, _, err := w.c.Get(ctx, repoAt(testHost).Tag("1"))
				for _, word := range tt.words {
					if err == nil || !strings.Contains(err.Error(), word) {
						t.Errorf("the error lacks %q: %v", word, err)
					}
				}
				if n := w.reg.Count("GET", registrytest.Manifest); n != tt.tries {
					t.Errorf("%d requests, want %d", n, tt.tries)
				}
				var status *StatusError
				if tt.fault.Status > 0 && (!errors.As(err, &status) || status.Status != tt.fault.Status ||
					status.Ref != "registry.test/team/app:1") {
					t.Errorf("the error is %#v", status)
				}
			})
		})
	}
}

// A server that cannot be reached is tried again; one whose name does not exist, or whose certificate is wrong, is not.
func TestRetryConnections(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		_, err := w.c.Resolve(ctx, repoAt("gone.test").Tag("1"))
		if n := w.net.Dials("gone.test:443"); n != 5 || err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%d dials, %v", n, err)
		}
		w.net.HTTPS("strange.test:443", w.reg)
		_, err = w.c.Resolve(ctx, repoAt("strange.test").Tag("1"))
		if n := w.net.Dials("strange.test:443"); n != 1 || err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%d dials, %v", n, err)
		}
	})
}

// A wait ends with its context.
func TestRetryCancel(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		w.reg.Fail(registrytest.Fault{Status: 503, RetryAfter: "30"})
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		start := time.Now()
		_, _, err := w.c.Get(ctx, repoAt(testHost).Tag("1"))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

// Error bodies of every shape become a code and a message that a terminal can take.
func TestParseErrorBody(t *testing.T) {
	for _, tt := range []struct{ body, code, message string }{
		{`{"errors":[{"code":"DENIED","message":"requested access is denied"}]}`, "DENIED", "requested access is denied"},
		{`{"errors":[]}`, "", ""},
		{`{"details":"incorrect username or password"}`, "", "incorrect username or password"},
		{`{"error":"invalid_grant","error_description":"expired"}`, "invalid_grant", "expired"},
		{"rate limited\n", "", "rate limited"},
		{"<html><body>502</body></html>", "", ""},
		{"a\x00b\u202ec\nd", "", "abc d"},
		{strings.Repeat("x", 1000), "", strings.Repeat("x", 256) + "…"},
		{"", "", ""},
	} {
		if code, message := parseErrorBody([]byte(tt.body)); code != tt.code || message != tt.message {
			t.Errorf("%.60q: got %q, %q", tt.body, code, message)
		}
	}
}
