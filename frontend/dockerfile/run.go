package dockerfile

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// run applies RUN.
func (st *state) run(c command, ic *instructions.RunCommand) error {
	st.s.use("/") // a process may read anything
	req := st.t.req
	r := &runStep{network: req.Network, limits: req.Limits}
	r.source, r.noCache = ranges(ic.Location()), st.s.noCache
	args, suffix, err := st.runArgs(ic, r)
	if err != nil {
		return err
	}
	if err := st.checkArgs(args); err != nil {
		return err
	}
	r.meta = op.ExecMeta{
		Args: args, Env: st.vars.environ(), Cwd: st.cwd(), User: st.img.Config.User,
		Hostname: hostname(req), ExtraHosts: req.ExtraHosts, Proxy: st.t.proxy(),
		ShmSize: req.ShmSize, Ulimits: req.Ulimits, CgroupParent: req.CgroupParent,
		RemoveStubs: true,
	}
	if err := st.mounts(c, ic, r); err != nil {
		return err
	}
	if err := st.privileges(ic, r); err != nil {
		return err
	}
	lex := *st.t.doc.lex
	lex.RawQuotes, lex.SkipUnsetEnv = true, true
	r.name = st.number(c, st.shown(&lex, ic.String()+suffix, st.masked(ic)))
	text, err := st.historyOfRun(args)
	if err != nil {
		return err
	}
	if err := st.record(text, true); err != nil {
		return err
	}
	size := 1500
	for _, kv := range r.meta.Env {
		size += 32 + len(kv) // the vertex's document has it again
	}
	for _, a := range args {
		size += 32 + len(a)
	}
	return st.addStep(r, size)
}

// checkArgs refuses what the kernel would refuse to execute (execve(2), MAX_ARG_STRLEN), with the line that says it and before
// anything else is run.
func (st *state) checkArgs(args []string) error {
	most := 32*os.Getpagesize() - 1
	for _, a := range args {
		if len(a) > most && st.img.OS == "linux" && !st.t.inspected {
			return fmt.Errorf("the command has an argument of %d bytes, and Linux takes at most %d here; COPY <<EOF can make a long script a file", len(a), most)
		}
	}
	return nil
}

// hostname returns the host name of a process: what the build argument says, else the request.
func hostname(req *frontend.Request) string {
	if h := req.BuildArgs["BUILDKIT_SANDBOX_HOSTNAME"]; h != "" {
		return h
	}
	return req.Hostname
}

// runArgs returns what is executed, and what the name of the step gets at its end.
func (st *state) runArgs(ic *instructions.RunCommand, r *runStep) (args []string, suffix string, err error) {
	args = ic.CmdLine
	if len(ic.Files) == 0 {
		if ic.PrependShell {
			args = st.withShell(args)
		}
		if len(args) == 0 { // RUN []
			return nil, "", errors.New("arguments are required")
		}
		return args, "", nil
	}
	if len(args) != 1 || !ic.PrependShell {
		return nil, "", fmt.Errorf("parsing produced an invalid run command: %v", args)
	}
	if parser.MustParseHeredoc(args[0]) == nil {
		// A command with here-documents: the shell gets all of it.
		var b strings.Builder
		b.WriteString(args[0])
		for _, f := range ic.Files {
			b.WriteString("\n" + f.Data + f.Name)
		}
		return st.withShell([]string{b.String()}), "", nil
	}
	file := ic.Files[0]
	suffix = " (" + summary(file.Data) + ")"
	data := file.Data
	if file.Chomp {
		data = parser.ChompHeredocContent(data)
	}
	if st.img.OS == windows || !strings.HasPrefix(data, "#!") {
		// The document is the command, so that a shell without here-documents will do.
		return st.withShell([]string{data}), suffix, nil
	}
	r.script = &op.Mkfile{Path: "/" + file.Name, Mode: 0o755, Data: []byte(data)}
	return st.withShell([]string{path.Join(scriptDir, file.Name)}), suffix, nil
}

// privileges applies --network, --security and --device. What goes beyond a sandbox has to be granted, unless the text is
// only looked at and nothing will run.
func (st *state) privileges(ic *instructions.RunCommand, r *runStep) error {
	grants, err := frontend.ParseGrants(st.t.req.Entitlements)
	if err != nil {
		return err
	}
	switch n := instructions.GetNetwork(ic); n {
	case instructions.NetworkDefault:
	case instructions.NetworkNone:
		r.network = op.NetworkNone
	case instructions.NetworkHost:
		r.network = op.NetworkHost
	default:
		return fmt.Errorf("unsupported network mode %q", n)
	}
	if r.network == op.NetworkHost && !grants.NetworkHost && !st.t.inspected {
		return frontend.NotAllowed(frontend.EntitlementNetworkHost)
	}
	switch s := instructions.GetSecurity(ic); s {
	case instructions.SecuritySandbox:
	case instructions.SecurityInsecure:
		r.security = op.SecurityInsecure
		if !grants.Insecure && !st.t.inspected {
			return frontend.NotAllowed(frontend.EntitlementInsecure)
		}
	default:
		return fmt.Errorf("security %q is not valid", s)
	}
	for _, d := range instructions.GetDevices(ic) {
		if d.Name == "" {
			return errors.New("device name is missing")
		}
		r.devices = append(r.devices, op.ExecDevice{Name: d.Name, Optional: !d.Required})
	}
	return nil
}

// masked returns the variables as the name of a RUN shows them: what is a secret shows as stars.
func (st *state) masked(ic *instructions.RunCommand) *vars {
	v := st.vars
	for _, m := range instructions.GetMounts(ic) {
		if m.Type == instructions.MountTypeSecret && m.Env != nil {
			if v == st.vars {
				v = v.clone()
			}
			_ = v.put(*m.Env, "****") // never too long
		}
	}
	return v
}
