package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A clientOutput is what the client does with the bytes of an output. At most one field is set.
type clientOutput struct {
	file      string // written when complete
	directory string // unpacked into
	stdout    bool
}

// planOutputs sets what becomes of the result: an image in the store, unless -o says otherwise.
func (a *app) planOutputs(plan *buildPlan, opt *buildOptions) error {
	image := false
	for _, s := range opt.outputs {
		out, client, err := a.parseOutput(s)
		if err != nil {
			return err
		}
		if out.GetType() == "image" {
			image = true
			out.Push = out.GetPush() || opt.push
		}
		plan.request.Outputs = append(plan.request.Outputs, out)
		plan.outputs = append(plan.outputs, client)
	}
	if !image && (len(opt.outputs) == 0 || opt.push || opt.load) {
		plan.request.Outputs = append(plan.request.Outputs, &boxbuildv1.Output{Type: "image", Push: opt.push})
		plan.outputs = append(plan.outputs, clientOutput{})
	}
	for _, out := range plan.request.GetOutputs() {
		if out.GetPush() && len(opt.tags) == 0 && out.GetAttrs()["name"] == "" {
			return usagef("tag is needed when pushing to registry")
		}
	}
	if err := annotate(plan.request.GetOutputs(), opt.annotations); err != nil {
		return err
	}
	stdouts := 0
	for _, c := range plan.outputs {
		if c.stdout {
			stdouts++
		}
	}
	if stdouts > 1 {
		return usagef("only one output can go to standard output")
	}
	return nil
}

// parseOutput reads one -o: type=…,key=value,… or the shorthands DIR and "-".
func (a *app) parseOutput(s string) (*boxbuildv1.Output, clientOutput, error) {
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return nil, clientOutput{}, usagef("invalid --output %q: %v", s, err)
	}
	out := &boxbuildv1.Output{Attrs: map[string]string{}}
	dest := ""
	if len(fields) == 1 && fields[0] == s && !strings.HasPrefix(s, "type=") {
		out.Type, dest = "local", s
		if s == "-" {
			out.Type = "tar"
		}
	} else {
		for _, f := range fields {
			k, v, ok := strings.Cut(f, "=")
			if !ok {
				return nil, clientOutput{}, usagef("invalid --output %q: %q is not key=value", s, f)
			}
			switch strings.ToLower(k) {
			case "type":
				out.Type = v
			case "dest":
				dest = v
			case "push":
				if out.Push, err = strconv.ParseBool(v); err != nil {
					return nil, clientOutput{}, usagef("invalid --output %q: push=%s", s, v)
				}
			default:
				out.Attrs[strings.ToLower(k)] = v
			}
		}
	}
	client, err := a.outputDest(out, dest)
	return out, client, err
}

// outputDest settles where the bytes of out go.
func (a *app) outputDest(out *boxbuildv1.Output, dest string) (clientOutput, error) {
	switch out.GetType() {
	case "registry":
		out.Type, out.Push = "image", true
		fallthrough
	case "image", "cacheonly":
		if dest != "" {
			return clientOutput{}, usagef("output type %s takes no dest", out.GetType())
		}
		return clientOutput{}, nil
	case "docker":
		if dest == "" { // docker's own meaning: load it
			out.Type = "image"
			return clientOutput{}, nil
		}
	case "local":
		return a.outputDirectory(out, dest)
	case "oci":
		if tar, err := strconv.ParseBool(out.GetAttrs()["tar"]); err == nil && !tar {
			return a.outputDirectory(out, dest)
		}
	case "tar":
	case "":
		return clientOutput{}, usagef("type is required for output")
	default:
		return clientOutput{}, usagef("unknown output type %q", out.GetType())
	}
	out.Dest = &boxbuildv1.Output_Stream{Stream: true}
	if dest == "" || dest == "-" {
		if f, ok := a.stdout.(interface{ Fd() uintptr }); ok && term.IsTerminal(int(f.Fd())) {
			return clientOutput{}, usagef("dest file is required for %s exporter. refusing to write to console", out.GetType())
		}
		return clientOutput{stdout: true}, nil
	}
	if st, err := os.Stat(dest); err == nil && st.IsDir() {
		return clientOutput{}, usagef("destination directory for %s exporter must be a file: %s is a directory", out.GetType(), dest)
	}
	if err := writable(dest); err != nil {
		return clientOutput{}, fmt.Errorf("ERROR: failed to build: cannot write the output: %w", err)
	}
	return clientOutput{file: dest}, nil
}

func (a *app) outputDirectory(out *boxbuildv1.Output, dest string) (clientOutput, error) {
	if dest == "" || dest == "-" {
		return clientOutput{}, usagef("dest directory is required for %s exporter", out.GetType())
	}
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return clientOutput{}, err
	}
	dir, err := directory("output", dest)
	if err != nil {
		return clientOutput{}, err
	}
	out.Dest = &boxbuildv1.Output_Directory{Directory: dir}
	return clientOutput{directory: dir.GetPath()}, nil
}
