package dockerfile

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// An image is for the platform that is asked for, else for that of its base; what runs in a stage is for the stage's.
func TestPlatform(t *testing.T) {
	const (
		amd = `{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["sha256:1"]}}`
		arm = `{"os":"linux","architecture":"arm64","variant":"v8","rootfs":{"diff_ids":["sha256:1"]}}`
		win = `{"os":"windows","architecture":"amd64","os.version":"10.0.1","rootfs":{"diff_ids":["sha256:1"]}}`
	)
	for _, tt := range []struct {
		name, text, base string
		ask              string
		args             map[string]string
		platform, config string
		run              string // the platform of the RUN
		warn             string
		label            string
		multi            bool
	}{
		{name: "implicit", base: amd, platform: "linux/amd64", config: "linux/amd64", run: "linux/amd64"},
		{
			name: "implicit, of a foreign base", base: arm, platform: "linux/arm64", config: "linux/arm64", run: "linux/amd64",
			warn: `was pulled with platform "linux/arm64", expected "linux/amd64"`,
		},
		{name: "asked for", base: arm, ask: "linux/arm64", platform: "linux/arm64", config: "linux/arm64", run: "linux/arm64"},
		{
			name: "another than the base's", base: amd, ask: "linux/arm/v7", platform: "linux/arm/v7", config: "linux/arm/v7", run: "linux/arm/v7",
			warn: `was pulled with platform "linux/amd64", expected "linux/arm/v7"`,
		},
		{
			name: "a pinned stage", base: amd, text: "FROM --platform=$BUILDPLATFORM base\nRUN x", ask: "linux/arm64",
			platform: "linux/arm64", config: "linux/arm64", run: "linux/amd64",
		},
		{name: "nothing", text: "FROM scratch\nRUN x", ask: "linux/riscv64", platform: "linux/riscv64", config: "linux/riscv64", run: "linux/riscv64"},
		{name: "windows", base: win, ask: "windows/amd64", platform: "windows(10.0.1)/amd64", config: "windows(10.0.1)/amd64", run: "windows/amd64"},
		{
			name: "arguments", base: amd, ask: "linux/arm/v7", warn: "expected",
			text:     "FROM base\nARG BUILDPLATFORM BUILDOS BUILDARCH BUILDVARIANT TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT TARGETSTAGE\nLABEL l=$BUILDPLATFORM,$BUILDOS,$BUILDARCH,$BUILDVARIANT,$TARGETPLATFORM,$TARGETOS,$TARGETARCH,$TARGETVARIANT,$TARGETSTAGE\nRUN x",
			platform: "linux/arm/v7", config: "linux/arm/v7", run: "linux/arm/v7",
			label: "linux/amd64,linux,amd64,,linux/arm/v7,linux,arm,v7,default",
		},
		{
			name: "the stage, and arguments that override", base: amd, ask: "linux/amd64",
			text: "FROM base AS Last\nARG TARGETSTAGE TARGETARCH\nLABEL l=$TARGETSTAGE,$TARGETARCH\nRUN x", args: map[string]string{"TARGETARCH": "own"},
			platform: "linux/amd64", config: "linux/amd64", run: "linux/amd64", label: "last,own",
		},
		{name: "an index of one", base: amd, args: map[string]string{"BUILDKIT_MULTI_PLATFORM": "1"}, platform: "linux/amd64", config: "linux/amd64", run: "linux/amd64", multi: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.text == "" {
				tt.text = "FROM base\nRUN x"
			}
			e := &fakeEnv{images: map[string]string{"*": tt.base}}
			req := &frontend.Request{Text: []byte(tt.text), BuildArgs: tt.args, Default: op.Platform{OS: "linux", Architecture: "amd64"}}
			if tt.ask != "" {
				req.Platforms = []op.Platform{platforms.MustParse(tt.ask)}
			}
			out, err := New().Translate(t.Context(), req, e)
			if err != nil {
				t.Fatal(err)
			}
			img := out.Images[0]
			run, ok := img.Root.Vertex.Op().(*op.Exec)
			if !ok {
				t.Fatalf("the last step is %v", img.Root.Vertex.Op())
			}
			got := []string{platforms.FormatAll(img.Platform), platforms.FormatAll(img.Config.Platform), platforms.FormatAll(run.Platform)}
			if want := []string{tt.platform, tt.config, tt.run}; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if out.Multi != tt.multi {
				t.Errorf("an index: %v", out.Multi)
			}
			if l := img.Config.Config.Labels["l"]; l != tt.label {
				t.Errorf("label %q, want %q", l, tt.label)
			}
			var warnings []string
			for _, w := range e.warnings {
				warnings = append(warnings, w.Short)
			}
			all := strings.Join(warnings, "\n")
			if tt.warn == "" && strings.Contains(all, "platform") || !strings.Contains(all, tt.warn) {
				t.Errorf("warnings %q, want %q", all, tt.warn)
			}
		})
	}
}
