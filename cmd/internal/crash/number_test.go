package crash

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestNumbers asks for numbers of everything that nobody can mean: each is refused, or served within bounds, and the daemon
// neither grows nor fails by it (CVE-2018-20699, CVE-2023-2253).
func TestNumbers(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	id := strings.TrimSpace(h.must("", "run", "-d", "-t", "busybox", "sh", "-c", "echo said; sleep 1000000"))
	before := h.rss()
	const most, more, below = "9223372036854775807", "9223372036854775808", "-9223372036854775808"
	ports := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(`"%d/tcp":[{"HostPort":"1-65535"}]`, i+1)
		}
		return strings.Join(list, ",")
	}
	for host, refused := range map[string]bool{
		`"CpusetMems":"0-` + most + `"`:                       true,
		`"CpusetCpus":"1-` + most + `"`:                       true,
		`"CpusetCpus":"0-4294967296"`:                         true,
		`"CpusetMems":"` + strings.Repeat("0,", 1<<16) + `0"`: true,
		`"Memory":-1`:                       true,
		`"Memory":` + below:                 true,
		`"ShmSize":-1`:                      true,
		`"ShmSize":` + below:                true,
		`"Memory":67108864,"MemorySwap":-2`: true,
		`"MemoryReservation":-5`:            true,
		`"NanoCpus":` + most:                true,
		`"CpuPeriod":-1`:                    true,
		`"CpuShares":-1`:                    true,
		`"OomScoreAdj":` + most:             true,
		`"OomScoreAdj":100000`:              true,
		`"Memory":` + more:                  true,
		`"Ulimits":[{"Name":"nofile","Soft":-2,"Hard":` + most + `}]`: true,
		`"Ulimits":[{"Name":"nofile","Soft":2,"Hard":1}]`:             true,
		`"PortBindings":{"80/tcp":[{"HostPort":"70000"}]}`:            true,
		`"PortBindings":{"80/tcp":[{"HostPort":"-1"}]}`:               true,
		`"PortBindings":{"1-65536/tcp":[{"HostPort":""}]}`:            true,
		`"PortBindings":{` + ports(2000) + `}`:                        false,
		`"Tmpfs":{"/t":"size=` + more + `"}`:                          true,
		`"Tmpfs":{"/t":"size=-1"}`:                                    true,
		`"PidsLimit":` + most:                                         false,
		`"BlkioWeight":65535`:                                         true,
	} {
		code, text := h.api(http.MethodPost, "/containers/create?name=number", []byte(`{"Image":"busybox","Cmd":["true"],"HostConfig":{`+host+`}}`), "Content-Type: application/json")
		if code == http.StatusCreated { // what docker takes may not start
			start, _ := h.api(http.MethodPost, "/containers/number/start", nil)
			refused = refused && start < 400
			h.must("", "rm", "-f", "number")
		} else {
			refused = refused && code >= 500
		}
		if refused || code == 0 {
			t.Errorf("%.60s: %d %s", host, code, text)
		}
	}
	for _, n := range []string{most, more, below, "2147483648", "-1", "1e9", "0x10", "", "NaN"} {
		for _, path := range []string{
			"GET /containers/json?limit=%s", "GET /containers/ID/logs?stdout=1&tail=%s", "GET /containers/ID/logs?stdout=1&since=%s", "GET /containers/ID/logs?stdout=1&until=%s",
			"POST /containers/ID/resize?h=%s&w=%[1]s", "GET /events?since=0&until=1&x=%s", "GET /events?until=1&since=%s",
			"POST /containers/ID/rename?name=%s", "GET /containers/ID/top?ps_args=-o%%20pid%%20-p%%20%s", "POST /build?memory=%s", "POST /build?cpusetmems=0-%s",
			"POST /build?shmsize=%s", "POST /containers/none/stop?t=%s", "POST /build/prune?keep-storage=%s", "GET /system/df?x=%s",
		} {
			method, path, _ := strings.Cut(fmt.Sprintf(strings.ReplaceAll(path, "ID", id), n), " ")
			if code, text := h.api(method, path, nil, "Content-Type: application/x-tar"); code == 0 || code == http.StatusInternalServerError && strings.Contains(text, "panic") {
				t.Errorf("%s %s: %d %s", method, path, code, text)
			}
		}
	}
	if after := h.rss(); after > before+100 {
		t.Errorf("the daemon grew from %.0f to %.0f MiB", before, after)
	}
	h.must("", "rm", "-f", id)
}
