package main

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// What a line of a transfer says goes forward: on a terminal a layer is downloaded, extracted, and then complete, which it
// is called once; elsewhere there is one line when all is over.
func TestTransferLines(t *testing.T) {
	const id = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	now := timestamppb.Now()
	pull := []*boxbuildv1.Status{
		{Id: id, Action: "downloading", Total: 1000},
		{Id: id, Action: "downloading", Current: 500, Total: 1000},
		{Id: id, Action: "downloading", Current: 1000, Total: 1000, Ended: now},
		{Id: id, Action: "extracting", Current: 500, Total: 1000},
		{Id: id, Action: "extracting", Current: 1000, Total: 1000, Ended: now},
	}
	var out bytes.Buffer
	a := &app{stdout: &out}
	pullLines := func() *transferLines { return a.pullLines(false) }
	pushLines := func() *transferLines {
		l := a.transferLines(false, "Pushing", "Pushed")
		l.exists = "Layer already exists"
		return l
	}
	for _, tt := range []struct {
		name     string
		lines    func() *transferLines
		terminal bool
		statuses []*boxbuildv1.Status
		want     []string
	}{
		{"pull on a terminal", pullLines, true, pull, []string{
			"Downloading [>", "Downloading [=========================>", "Download complete", "Extracting [", "Pull complete",
		}},
		{"pull", pullLines, false, pull, []string{"Pull complete"}},
		{"pull of what is there", pullLines, false, []*boxbuildv1.Status{{Id: id, Action: "exists", Ended: now}}, []string{"Already exists"}},
		{"push", pushLines, false, []*boxbuildv1.Status{
			{Id: "layer " + id, Action: "pushing", Total: 10}, {Id: "layer " + id, Action: "pushing", Current: 10, Total: 10, Ended: now},
		}, []string{"Pushed"}},
		{"push of what is there", pushLines, false, []*boxbuildv1.Status{
			{Id: "layer " + id, Action: "pushing", Total: 10}, {Id: "layer " + id, Action: "exists", Current: 10, Total: 10, Ended: now},
		}, []string{"Layer already exists"}},
		{"push of what is elsewhere", pushLines, false, []*boxbuildv1.Status{{Id: "config " + id, Action: "mounted from library/alpine", Ended: now}}, []string{"Mounted from library/alpine"}},
	} {
		out.Reset()
		l := tt.lines()
		l.terminal = tt.terminal
		for _, st := range tt.statuses {
			l.status(st)
		}
		got := strings.Split(out.String(), "0123456789ab: ")[1:]
		if len(got) != len(tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
			continue
		}
		for i, want := range tt.want {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%s: line %d is %q, want %q", tt.name, i, got[i], want)
			}
		}
	}
}
