package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/attrs"
)

// Keys of the answers to subrequests.
const (
	keyJSON    = report.KeyJSON
	keyText    = report.KeyText
	keyVersion = report.KeyVersion
)

// subrequestVersion is that of all subrequests.
const subrequestVersion = report.Version

// A subrequest describes a call of a frontend that is for no image, as BuildKit's clients read it.
type subrequest struct {
	Name        string  `json:"name"`
	Version     string  `json:"version"`
	Type        string  `json:"type"`
	Description string  `json:"description"`
	Opts        []named `json:"opts"`
	Inputs      []named `json:"inputs"`
	Metadata    []named `json:"metadata"`
	Refs        []named `json:"refs"`
}

type named struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// subrequests are those of the Dockerfile frontend that BuildKit's lists: it leaves out frontend.lint, which there is too.
func subrequests() []subrequest {
	md := []named{{Name: keyJSON}, {Name: keyText}}
	return []subrequest{
		{"frontend.outline", subrequestVersion, "rpc", "List all parameters current build target supports", []named{{"target", "Target build stage"}}, nil, md, nil},
		{"frontend.targets", subrequestVersion, "rpc", "List all targets current build supports", nil, nil, md, nil},
		{"frontend.subrequests.describe", subrequestVersion, "rpc", "List available subrequest types", nil, nil, md, nil},
	}
}

// inspect answers a request that is for no image: the answer is metadata.
func inspect(ctx context.Context, use frontend.Frontend, parsed *attrs.Build, req *frontend.Request, env frontend.Env) (*result, error) {
	if parsed.Describe {
		md, err := description()
		return &result{metadata: md}, err
	}
	doc, err := frontend.Inspect(ctx, use, parsed.Call, req, env)
	if err != nil {
		return nil, err
	}
	md, err := document(doc)
	return &result{metadata: md}, err
}

func description() (map[string][]byte, error) {
	list := subrequests()
	raw, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("listing subrequests: %w", err)
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	fmt.Fprint(w, "NAME\tVERSION\tDESCRIPTION\n")
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\n", strings.TrimPrefix(s.Name, "frontend."), s.Version, s.Description)
	}
	_ = w.Flush() // into memory
	return map[string][]byte{keyJSON: raw, keyText: b.Bytes(), keyVersion: []byte(subrequestVersion)}, nil
}

// document is a report as metadata.
func document(doc report.Document) (map[string][]byte, error) {
	answer, err := report.Answer(doc)
	if err != nil {
		return nil, err
	}
	md := make(map[string][]byte, len(answer))
	for k, v := range answer {
		md[k] = []byte(v)
	}
	return md, nil
}
