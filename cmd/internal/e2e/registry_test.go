package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

const registryConfig = `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %[1]s/data}, delete: {enabled: true}}
http: {net: unix, addr: %[1]s/socket}
`

// What makes the registry ask for the password "open sesame" of alice, and a file that has it.
const (
	authConfig = `auth: {htpasswd: {realm: test, path: %[1]s/passwords}}
`
	passwords = "alice:$2a$05$sk4rLmYcDsjYIOKjH4.L9OI/EetCBWjuP1uaQAtW38rVrGkq.PuTa\n"
)

// startRegistry starts Debian's docker-registry and a proxy before it, and sets REGISTRY to the proxy's address. The proxy
// notes in the file $WORK/requests what is asked, before the registry sees it. A private one wants a password.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	auth := len(args) == 1 && args[0] == "private"
	if len(args) != 0 && !auth || neg {
		ts.Fatalf("usage: registry [private]")
	}
	dir, err := os.MkdirTemp("", "reg")
	ts.Check(err)
	ts.Defer(func() { _ = os.RemoveAll(dir) })
	config, text := filepath.Join(dir, "config.yml"), registryConfig
	if auth {
		text += authConfig
		ts.Check(os.WriteFile(filepath.Join(dir, "passwords"), []byte(passwords), 0o600))
	}
	ts.Check(os.WriteFile(config, fmt.Appendf(nil, text, dir), 0o600))
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Kill() // it may be gone already
		_ = cmd.Wait()         // killed
	})
	socket := filepath.Join(dir, "socket")
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
			break
		}
		if err := syscall.Kill(cmd.Process.Pid, 0); err != nil {
			ts.Fatalf("docker-registry ended: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	requests := filepath.Join(ts.Getenv("WORK"), "requests")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	server := &http.Server{Handler: noting(proxyTo(socket), requests), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	ts.Defer(func() {
		_ = server.Close() // ends Serve
		<-served
	})
	ts.Setenv("REGISTRY", fmt.Sprintf("localhost:%d", l.Addr().(*net.TCPAddr).Port))
}

// proxyTo hands requests to the server at a Unix socket, with the host that the client named.
func proxyTo(socket string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "registry"})
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", socket) }},
	}
}

// noting writes method and URL of each request to a file. A script may empty the file.
func noting(next http.Handler, path string) http.Handler {
	var mu sync.Mutex // one writer at a time
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err == nil {
			fmt.Fprintln(f, r.Method, r.URL)
			err = f.Close()
		}
		mu.Unlock()
		if err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// putIndex pushes an index of manifests that are in the repository: putindex repository tag os/arch=tag...
func putIndex(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 || neg {
		ts.Fatalf("usage: putindex repository tag os/arch=tag...")
	}
	manifests := "http://" + ts.Getenv("REGISTRY") + "/v2/" + args[0] + "/manifests/"
	type entry struct {
		MediaType string            `json:"mediaType"`
		Digest    string            `json:"digest"`
		Size      int               `json:"size"`
		Platform  map[string]string `json:"platform"`
	}
	const indexType = "application/vnd.oci.image.index.v1+json"
	index := struct {
		SchemaVersion int     `json:"schemaVersion"`
		MediaType     string  `json:"mediaType"`
		Manifests     []entry `json:"manifests"`
	}{SchemaVersion: 2, MediaType: indexType}
	for _, arg := range args[2:] {
		platform, tag, _ := strings.Cut(arg, "=")
		system, arch, _ := strings.Cut(platform, "/")
		req, err := http.NewRequest(http.MethodGet, manifests+tag, nil)
		ts.Check(err)
		req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json")
		body, header := fetch(ts, req)
		index.Manifests = append(index.Manifests, entry{
			MediaType: header.Get("Content-Type"), Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(body)), Size: len(body),
			Platform: map[string]string{"os": system, "architecture": arch},
		})
	}
	text, err := json.Marshal(index)
	ts.Check(err)
	req, err := http.NewRequest(http.MethodPut, manifests+args[1], bytes.NewReader(text))
	ts.Check(err)
	req.Header.Set("Content-Type", indexType)
	fetch(ts, req)
}

// fetch sends a request that must succeed.
func fetch(ts *testscript.TestScript, req *http.Request) ([]byte, http.Header) {
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if resp.StatusCode/100 != 2 {
		ts.Fatalf("%s %s: %s: %s", req.Method, req.URL, resp.Status, body)
	}
	return body, resp.Header
}
