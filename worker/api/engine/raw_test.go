package engine

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/boxbuild/boxbuild/worker"
)

// What is not one request in one way is refused, or means the same to whoever looks at it first and to who carries it out: no
// container comes of bytes behind a body, of two lengths, or of a body that is larger than is read (CVE-2024-41110,
// CVE-2026-34040).
func TestRawRequests(t *testing.T) {
	const create, head = "POST /containers/create?name=%s HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n", "Connection: close\r\n\r\n"
	const body = `{"Image":"busybox","Cmd":["sleep"]}`
	length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	chunk := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	get := "GET /containers/json HTTP/1.1\r\nHost: docker\r\n\r\n"
	for name, tt := range map[string]struct {
		text string
		made bool
	}{
		"plain":                 {create + length + head + body, true},
		"chunks":                {create + "Transfer-Encoding: chunked\r\n" + head + chunk, true},
		"trailers":              {create + "Transfer-Encoding: chunked\r\nTrailer: X\r\n" + head + strings.Replace(chunk, "0\r\n\r\n", "0\r\nContent-Length: 0\r\nX: y\r\n\r\n", 1), true},
		"no length":             {create + head + body, false},
		"length of nothing":     {create + "Content-Length: 0\r\n" + head + body, false},
		"behind a body":         {get + "Content-Length: 0\r\n\r\n" + body, false},
		"two lengths":           {create + length + "Content-Length: 0\r\n" + head + body, false},
		"two lengths in one":    {create + fmt.Sprintf("Content-Length: 0, %d\r\n", len(body)) + head + body, false},
		"negative length":       {create + "Content-Length: -1\r\n" + head + body, false},
		"length with a sign":    {create + fmt.Sprintf("Content-Length: +%d\r\n", len(body)) + head + body, false},
		"huge length":           {create + "Content-Length: 99999999999999999999\r\n" + head + body, false},
		"unknown coding":        {create + "Transfer-Encoding: gzip, chunked\r\n" + head + chunk, false},
		"chunked twice":         {create + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + head + chunk, false},
		"odd coding":            {create + "Transfer-Encoding: xchunked\r\n" + head + chunk, false},
		"space before a colon":  {create + fmt.Sprintf("Content-Length : %d\r\n", len(body)) + head + body, false},
		"folded header":         {create + "X: y\r\n Content-Length: 0\r\n" + head + body, false},
		"two documents":         {create + fmt.Sprintf("Content-Length: %d\r\n", 2*len(body)) + head + body + body, false},
		"text":                  {strings.Replace(create, "application/json", "text/plain", 1) + length + head + body, false},
		"a form":                {strings.Replace(create, "application/json", "application/x-www-form-urlencoded", 1) + length + head + body, false},
		"larger than is read":   {create + fmt.Sprintf("Content-Length: %d\r\n", maxJSON+2+len(body)) + head + `{"Labels":{"a":"` + strings.Repeat("x", maxJSON) + `"}` + "," + body[1:], false},
		"expects, and is large": {create + fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n", 1<<40) + head, false},
		"expects nonsense":      {create + "Expect: nonsense\r\n" + length + head + body, false},
		"two hosts":             {create + "Host: other\r\n" + length + head + body, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := serve(t)
			w.image("busybox")
			conn, err := net.Dial("unix", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			var writer sync.WaitGroup
			defer writer.Wait()
			defer conn.Close()
			text := tt.text
			if strings.HasPrefix(text, "POST") {
				text = strings.Replace(text, "%s", "made", 1)
			}
			writer.Go(func() {
				_, _ = io.WriteString(conn, text) // it may be refused before its end
				_ = conn.(*net.UnixConn).CloseWrite()
			})
			answer, _ := io.ReadAll(conn)
			list, err := w.containers.List(t.Context(), worker.ListContainersOptions{All: true})
			if err != nil {
				t.Fatal(err)
			}
			if (len(list) == 1) != tt.made || strings.Contains(string(answer), " 201 ") != tt.made {
				t.Errorf("there are %d containers: %.300s", len(list), answer)
			}
		})
	}
}
