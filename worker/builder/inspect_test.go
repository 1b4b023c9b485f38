package builder_test

import (
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/worker"
)

// TestInspect checks that a question about the Dockerfile is answered from the same file and bases as a build, runs no
// step and makes no image, whatever outputs the request has.
func TestInspect(t *testing.T) {
	r := newRig(t)
	r.base("base")
	text := "FROM HOST/base AS a\nARG X=1\nRUN exit 7\nCMD x\n"
	ask := func(call frontend.Call) report.Document {
		t.Helper()
		res, rec, err := r.build(text, func(req *worker.BuildRequest) { req.Call = call })
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Images) > 0 {
			t.Errorf("call %d: an image was made", call)
		}
		for name := range rec.states {
			if strings.Contains(name, "exit 7") {
				t.Errorf("call %d: a step ran", call)
			}
		}
		return res.Report
	}
	if f := ask(frontend.Check).(*report.Findings); len(f.Warnings) != 1 || f.Warnings[0].RuleName != "JSONArgsRecommended" || f.Error != nil {
		t.Errorf("check: %+v", f)
	}
	if o := ask(frontend.Outline).(*report.Outline); o.Name != "a" || len(o.Args) != 1 || o.Args[0].Value != "1" {
		t.Errorf("outline: %+v", o)
	}
	if l := ask(frontend.Targets).(*report.Targets); len(l.Targets) != 1 || !l.Targets[0].Default {
		t.Errorf("targets: %+v", l)
	}
	if _, _, err := r.build("FRM x\n", func(req *worker.BuildRequest) { req.Call = frontend.Outline }); err == nil {
		t.Error("an outline of what cannot be parsed")
	}
	if _, _, err := r.build(text, func(req *worker.BuildRequest) { req.Call = 99 }); err == nil {
		t.Error("an unknown call")
	}
}
