package boxbuildv1

import (
	"testing"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// TestValidText checks that a message with bytes which are not UTF-8, wherever they are, becomes one that can be sent and
// says the same otherwise, and that the message itself does not change.
func TestValidText(t *testing.T) {
	for name, tt := range map[string]struct {
		in, want proto.Message
		field    string
	}{
		"field": {
			in: &Error{Message: "a\xe9b", Kind: ErrorKind_ERROR_KIND_STEP}, field: "message",
			want: &Error{Message: "a\uFFFDb", Kind: ErrorKind_ERROR_KIND_STEP},
		},
		"deep": {
			in:    &BuildFinished{Outcome: &BuildFinished_Error{Error: &Error{Source: &SourceError{File: "\xff\xfe.x"}}}},
			want:  &BuildFinished{Outcome: &BuildFinished_Error{Error: &Error{Source: &SourceError{File: "\uFFFD.x"}}}},
			field: "file",
		},
		"list": {
			in: &BuildRequest{Tags: []string{"a", "\xe9"}}, want: &BuildRequest{Tags: []string{"a", "\uFFFD"}}, field: "tags",
		},
		"messages": {
			in:    &BuildRequest{Directories: []*Directory{{Name: "x"}, {Path: "/\xe9"}}},
			want:  &BuildRequest{Directories: []*Directory{{Name: "x"}, {Path: "/\uFFFD"}}},
			field: "path",
		},
		"map value": {
			in: &Frontend{Labels: map[string]string{"a": "b", "c": "\xe9"}}, field: "labels",
			want: &Frontend{Labels: map[string]string{"a": "b", "c": "\uFFFD"}},
		},
		"map key": {
			in: &Frontend{Labels: map[string]string{"a": "b", "\xe9": "c", "\xe8x": "\xe9"}}, field: "labels",
			want: &Frontend{Labels: map[string]string{"a": "b", "\uFFFD": "c", "\uFFFDx": "\uFFFD"}},
		},
		"bytes": {
			in:   &Frontend{Dockerfile: &Frontend_Text{Text: []byte("\xe9")}, Labels: map[string]string{"é": "世"}},
			want: &Frontend{Dockerfile: &Frontend_Text{Text: []byte("\xe9")}, Labels: map[string]string{"é": "世"}},
		},
	} {
		before := proto.Clone(tt.in)
		got := ValidText(tt.in)
		if !proto.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
		if _, err := proto.Marshal(got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !proto.Equal(tt.in, before) {
			t.Errorf("%s: the message has changed", name)
		}
		if field, _ := InvalidText(tt.in); field != tt.field {
			t.Errorf("%s: the field is %q, want %q", name, field, tt.field)
		}
		if (got == tt.in) != (tt.field == "") {
			t.Errorf("%s: copied %v", name, got != tt.in)
		}
	}
}

// TestFailureText checks that an error whose text is not UTF-8 keeps its kind and details on the wire.
func TestFailureText(t *testing.T) {
	f := &Failure{Wire: &Error{Kind: ErrorKind_ERROR_KIND_CONFLICT, Message: "\xe9 is in use"}}
	st := status.FromProto(f.GRPCStatus().Proto())
	got := AsFailure(st.Err())
	if got.Wire.GetKind() != f.Wire.GetKind() || got.Wire.GetMessage() != "\uFFFD is in use" || len(st.Details()) != 1 {
		t.Errorf("got %v with %d details", got.Wire, len(st.Details()))
	}
	if _, err := proto.Marshal(st.Proto()); err != nil {
		t.Error(err)
	}
}
