package llb

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	capspb "github.com/moby/buildkit/util/apicaps/pb"
)

// declared returns the capabilities that a package of BuildKit's has constants for.
func declared(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", pkg).Output()
	if err != nil {
		t.Fatal(err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "caps.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for _, v := range spec.Values {
				if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					id, err := strconv.Unquote(lit.Value)
					if err != nil {
						t.Fatal(err)
					}
					ids[id] = true
				}
			}
		}
		return true
	})
	return ids
}

// TestCaps checks that the tables say of every capability of BuildKit's whether boxbuild has it, and of no other: a new
// one has to be decided on.
func TestCaps(t *testing.T) {
	for _, tt := range []struct {
		pkg   string
		table map[string]string
		list  *apicaps.CapList
		ours  []*capspb.APICap
	}{
		{"github.com/moby/buildkit/solver/pb", capabilities, &pb.Caps, Caps()},
		{"github.com/moby/buildkit/frontend/gateway/pb", gatewayCapabilities, &gateway.Caps, GatewayCaps()},
	} {
		ids := declared(t, tt.pkg)
		if len(ids) < 20 {
			t.Fatalf("%s: only %d capabilities were found", tt.pkg, len(ids))
		}
		for _, c := range tt.list.All() {
			ids[c.ID] = true
		}
		for id := range ids {
			if _, ok := tt.table[id]; !ok {
				t.Errorf("%s: %s is not in the table", tt.pkg, id)
			}
		}
		for id := range tt.table {
			if !ids[id] {
				t.Errorf("%s: there is no %s", tt.pkg, id)
			}
		}
		// What a client finds out is what the table says.
		set := tt.list.CapSet(tt.ours)
		for _, c := range tt.list.All() {
			if got, want := set.Supports(apicaps.CapID(c.ID)) == nil, tt.table[c.ID] == have; got != want {
				t.Errorf("%s: a client finds that %s is there: %v, want %v", tt.pkg, c.ID, got, want)
			}
		}
	}
}

// TestSupports checks what is said of capabilities that are there, lacking, and unknown.
func TestSupports(t *testing.T) {
	if err := Supports("file.base"); err != nil {
		t.Error(err)
	}
	for id, want := range map[string]string{"cache.s3": "cache.s3 has been disabled", "new.one": "unknown API capability new.one"} {
		err := Supports(id)
		var c *CapError
		if !errors.As(err, &c) || c.ID != id || !strings.Contains(err.Error(), want) {
			t.Errorf("Supports(%s) = %v, want %q", id, err, want)
		}
	}
}
