package container

import (
	"context"
	"slices"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
)

// A confiningHost has some security modules, and remembers what is asked of them.
type confiningHost struct {
	executor.Host
	have              executor.Modules
	appArmor, seLinux string
}

func (h *confiningHost) Confines() executor.Modules { return h.have }

// Create implements executor.Host.
func (h *confiningHost) Create(ctx context.Context, dir string, spec *executor.Spec, opt executor.HostOptions) (executor.Container, error) {
	h.appArmor, h.seLinux = spec.AppArmor, spec.SELinux
	return h.Host.Create(ctx, dir, spec, opt)
}

// Profiles and labels of security modules that the kernel lacks are discarded with a warning, and the container runs; those of
// modules that it has are the executor's, who refuses what it cannot apply. Who asks for none is told nothing.
func TestConfine(t *testing.T) {
	const (
		noAppArmor = `Your kernel does not support AppArmor or it is not enabled. Profile "mine" discarded.`
		noSELinux  = `Your kernel does not support SELinux or it is not enabled. Label "u:system_r:container_t:s0" discarded.`
		label      = "u:system_r:container_t:s0"
	)
	for name, tt := range map[string]struct {
		have              executor.Modules
		opts, warnings    []string
		appArmor, seLinux string
	}{
		"neither":    {executor.Modules{}, []string{"apparmor=mine", "label=user:u"}, []string{noAppArmor, noSELinux}, "", ""},
		"AppArmor":   {executor.Modules{AppArmor: true}, []string{"apparmor=mine", "label=user:u"}, []string{noSELinux}, "mine", ""},
		"SELinux":    {executor.Modules{SELinux: true}, []string{"apparmor:mine", "label:user:u"}, []string{noAppArmor}, "", label},
		"unconfined": {executor.Modules{}, []string{"apparmor=unconfined", "label=disable"}, nil, "", ""},
		"no profile": {executor.Modules{AppArmor: true}, []string{"apparmor=unconfined", "disable"}, nil, "unconfined", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			host := &confiningHost{Host: f.deps.Host, have: tt.have}
			f.deps.Host = host
			req := request("exit", "0")
			req.HostConfig.SecurityOpt = tt.opts
			out, err := f.Create(t.Context(), req)
			f.must(err)
			if !slices.Equal(out.Warnings, tt.warnings) {
				t.Errorf("warnings are %q, want %q", out.Warnings, tt.warnings)
			}
			f.must(f.Start(t.Context(), out.ID))
			if host.appArmor != tt.appArmor || host.seLinux != tt.seLinux {
				t.Errorf("asked of the executor: %q, %q, want %q, %q", host.appArmor, host.seLinux, tt.appArmor, tt.seLinux)
			}
			in, err := f.Inspect(t.Context(), out.ID, false)
			f.must(err)
			if got := in.HostConfig.SecurityOpt; !slices.Equal(got, tt.opts) {
				t.Errorf("inspect shows %q, want %q as it was asked for", got, tt.opts)
			}
			f.await(out.ID)
		})
	}
}
