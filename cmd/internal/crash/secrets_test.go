package crash

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// TestSecretsStay gives the daemon secrets in every way that there is, while it logs everything: none is in its log, in what
// it keeps, or in what it says of builds (CVE-2019-13509, CVE-2023-26054). What a container's own configuration has is in
// that container's record, as with docker, and in no log.
func TestSecretsStay(t *testing.T) {
	h := newHost(t, "")
	h.start("--debug")
	h.importBusybox()
	word := func(what string) string { return "sentinel-" + what + "-5a61" }
	reg := registrytest.Start(t, registrytest.New(registrytest.Behaviour{Auth: &registrytest.Auth{Basic: map[string]string{"ann": word("login")}}}))
	dir := h.context(map[string]string{
		"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=f cat /run/secrets/f >/dev/null\nRUN --mount=type=secret,id=e,env=E test -n \"$E\"\n",
		"Git":        "FROM busybox\nADD http://user:" + word("giturl") + "@127.0.0.1:9/r.git#main /x\n",
		"URL":        "FROM busybox\nADD http://" + word("url") + "@127.0.0.1:9/file /x\n", "secret": word("file"),
	})
	t.Setenv("SECRET_E", word("variable"))
	h.must("", "build", "--secret", "id=f,src="+dir+"/secret", "--secret", "id=e,env=SECRET_E", dir)
	h.mustFail("", []string{"build", "-f", dir + "/Git", dir})
	h.mustFail("", []string{"build", "-f", dir + "/URL", dir})
	h.mustFail("", []string{"build", "http://user:" + word("context") + "@127.0.0.1:9/r.git#main"})
	h.must("", "tag", "busybox", reg+"/private:1")
	h.must(word("login"), "login", "-u", "ann", "--password-stdin", reg)
	h.must("", "push", reg+"/private:1")
	h.must("", "pull", reg+"/private:1")
	auth := base64.URLEncoding.EncodeToString(fmt.Appendf(nil, `{"username":"ann","password":%q,"identitytoken":%q}`, word("auth"), word("token")))
	for _, path := range []string{"/images/create?fromImage=" + reg + "/private&tag=1", "/images/" + reg + "/private/push?tag=1"} {
		h.api(http.MethodPost, path, nil, "X-Registry-Auth: "+auth, "X-Registry-Config: "+auth)
	}
	h.api(http.MethodPost, "/auth", fmt.Appendf(nil, `{"username":"ann","password":%q,"serveraddress":%q}`, word("api"), reg), "Content-Type: application/json")
	id := strings.TrimSpace(h.must("", "run", "-d", "-e", "OWN=own-5a61", "busybox", "sleep", "1000000"))
	h.must("", "exec", "-e", "TOKEN="+word("exec"), id, "true")
	said := h.must("", "builds", "ls") + h.must("", "inspect", "busybox") + h.must("", "history", "busybox")
	for _, line := range strings.Split(h.must("", "builds", "ls", "-q"), "\n") {
		if line != "" {
			said += h.run("", "builds", "inspect", line).String() + h.run("", "builds", "logs", line).String()
		}
	}
	if strings.Contains(said, "sentinel-") {
		t.Errorf("the daemon says:\n%s", said)
	}
	h.must("", "rm", "-f", id)
	if log := h.log.tail(1 << 30); strings.Contains(log, "sentinel-") || strings.Contains(log, "own-5a61") || !strings.Contains(log, "level=DEBUG") {
		t.Errorf("the log has a secret, or is none of everything:\n%s", log)
	}
	h.stop()
	err := filepath.WalkDir(h.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if i := bytes.Index(text, []byte("sentinel-")); i >= 0 {
			t.Errorf("%s has %q", path, text[max(0, i-40):min(len(text), i+40)])
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
