package dockerfile

import (
	"strings"
	"testing"
)

// BenchmarkTranslate measures what a build in which nothing changed cannot do without: 50 steps, three stages.
func BenchmarkTranslate(b *testing.B) {
	text := "ARG V=1\nFROM busybox:$V AS a\n" + strings.Repeat("RUN echo $HOME && make -j4 all\n", 40) +
		"FROM busybox AS b\nCOPY --from=a /out /out\nFROM busybox\n" + strings.Repeat("COPY --from=b /x /y\nENV A=${A:-b}\n", 5) + "COPY . .\n"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := dockerfileCase(b, text).translate(); err != nil {
			b.Fatal(err)
		}
	}
}
