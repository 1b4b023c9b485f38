package transfer

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry"
)

// That a layer is elsewhere is said only of one whose registry has not got it.
func TestElsewhere(t *testing.T) {
	gone := fmt.Errorf("pulling: %w", &registry.StatusError{Status: 404})
	for name, tt := range map[string]struct {
		urls []string
		err  error
		said bool
	}{
		"an ordinary layer": {nil, gone, false},
		"a foreign one":     {[]string{"https://example.com/x"}, gone, true},
		"a tired registry":  {[]string{"https://example.com/x"}, &registry.StatusError{Status: 503}, false},
		"another error":     {[]string{"https://example.com/x"}, errors.New("x"), false},
	} {
		err := elsewhere(ocispec.Descriptor{URLs: tt.urls}, tt.err)
		if said := strings.Contains(err.Error(), `"https://example.com/x"`); said != tt.said || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
