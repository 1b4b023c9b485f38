package registrytest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// StartDebian runs Debian's docker-registry on a free port until the test ends, and returns "127.0.0.1:port". It skips
// the test if the program is not installed.
func StartDebian(tb testing.TB) string {
	tb.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		tb.Skip("needs docker-registry")
	}
	dir := tb.TempDir()
	conf := filepath.Join(dir, "config.yml")
	yml := "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: " + dir + "/data}}\nhttp: {addr: \"127.0.0.1:0\"}\n"
	if err := os.WriteFile(conf, []byte(yml), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), bin, "serve", conf)
	logs, err := cmd.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	addr := make(chan string, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		var all bytes.Buffer
		buf := make([]byte, 4096)
		for {
			n, err := logs.Read(buf)
			all.Write(buf[:n])
			if _, after, ok := strings.Cut(all.String(), "listening on "); ok {
				if host, _, whole := strings.Cut(after, "\""); whole {
					select {
					case addr <- strings.Fields(host)[0]:
					default:
					}
				}
			}
			if err != nil {
				close(addr)
				return
			}
		}
	})
	tb.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		wg.Wait()
		cmd.Wait() //nolint:errcheck // it was killed
	})
	host, ok := <-addr
	if !ok {
		tb.Fatal("docker-registry does not start")
	}
	return host
}
