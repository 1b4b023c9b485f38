package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A callOption is --call: what is wanted of the Dockerfile, and how it is shown.
type callOption struct {
	text         string // as it is written; empty means build
	call         boxbuildv1.Call
	json         bool
	ignoreStatus bool
}

// register adds the flag, docker's shorthand for the check, and the old name of the flag.
func (c *callOption) register(f *pflag.FlagSet) {
	f.Var(c, "call", `Set method for evaluating build ("check", "outline", "targets")`)
	f.BoolFunc("check", `Shorthand for "--call=check"`, func(s string) error {
		if on, err := strconv.ParseBool(s); err != nil || !on {
			return err
		}
		return c.Set("check")
	})
	f.Var(c, "print", "Print result of information request (e.g., outline, targets)")
	_ = f.MarkHidden("print") // it exists
}

// Set implements pflag.Value: a method, and format=json or format=text.
func (c *callOption) Set(s string) error {
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return errors.New("it is no list of comma-separated values")
	}
	next := callOption{text: s}
	method := ""
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		switch {
		case !ok && method == "":
			method = field
		case ok && key == "format" && (value == "json" || value == "text"):
			next.json = value == "json"
		case ok && key == "format":
			return fmt.Errorf("format %q is neither json nor text", value)
		case ok && key == "ignorestatus":
			if next.ignoreStatus, err = strconv.ParseBool(value); err != nil {
				return fmt.Errorf("ignorestatus=%s: neither true nor false", value)
			}
		default:
			return fmt.Errorf("unexpected %q", field)
		}
	}
	switch method {
	case "build":
	case "check", "lint":
		next.call = boxbuildv1.Call_CALL_CHECK
	case "outline":
		next.call = boxbuildv1.Call_CALL_OUTLINE
	case "targets":
		next.call = boxbuildv1.Call_CALL_TARGETS
	default:
		return fmt.Errorf("method %q is none of build, check, outline and targets", method)
	}
	*c = next
	return nil
}

// String implements pflag.Value.
func (c *callOption) String() string {
	if c.text == "" {
		return "build"
	}
	return c.text
}

// Type implements pflag.Value.
func (c *callOption) Type() string { return "string" }

// printReport shows the answer to a call as buildx does. Findings are a failure.
func (a *app) printReport(opt *buildOptions, plan *buildPlan, text []byte) error {
	var doc report.Document
	var findings *report.Findings
	switch opt.call.call {
	case boxbuildv1.Call_CALL_CHECK:
		findings = &report.Findings{}
		doc = findings
	case boxbuildv1.Call_CALL_OUTLINE:
		doc = &report.Outline{}
	case boxbuildv1.Call_CALL_TARGETS:
		doc = &report.Targets{}
	case boxbuildv1.Call_CALL_BUILD:
		return errors.New("a build has no report")
	}
	if err := report.Read(text, doc); err != nil {
		return err
	}
	if err := opt.writeAnswer(text, doc); err != nil {
		return err
	}
	file := opt.dockerfileName(plan.request.GetFrontend())
	var err error
	if opt.call.json {
		_, err = fmt.Fprintf(a.stdout, "%s\n", text)
	} else {
		err = doc.Print(a.stdout, file)
	}
	if err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	if findings != nil && findings.Error != nil {
		if !opt.call.json && len(findings.Warnings) > 0 {
			fmt.Fprintln(a.stdout)
		}
		fmt.Fprint(a.stderr, "ERROR: ")
		if err := findings.PrintError(a.stderr, file); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
		return silentError{exitFailed}
	}
	if doc.Failed() && !opt.call.ignoreStatus {
		return silentError{exitFailed}
	}
	return nil
}

// writeAnswer writes the files that the user wants of a call, as buildx does: there is no image, so its ID is empty.
func (o *buildOptions) writeAnswer(text []byte, doc report.Document) error {
	if err := o.writeID(""); err != nil {
		return err
	}
	answer, err := report.Answer(doc)
	if err != nil {
		return err
	}
	m := metadata(answer)
	m[report.KeyJSON] = json.RawMessage(text)
	return o.writeMetadata(m)
}

// dockerfileName is what the user calls the Dockerfile; empty for what only the daemon knows.
func (o *buildOptions) dockerfileName(front *boxbuildv1.Frontend) string {
	switch {
	case o.file == "-" || o.file == "" && o.context == "-":
		return "stdin"
	case o.file != "":
		return o.file
	case front.GetContextDirectory() == "":
		return ""
	}
	return filepath.Join(o.context, "Dockerfile")
}
