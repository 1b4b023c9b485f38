package llb

import (
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/llbbuild"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A client makes random graphs with BuildKit's own client package, of everything that it has.
type client struct {
	*rand.Rand
	states []llb.State
	files  []*llb.SourceMap
}

func newClient(seed uint64) *client {
	c := &client{Rand: rand.New(rand.NewPCG(seed, 1))}
	c.files = []*llb.SourceMap{
		llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", []byte("FROM a\nRUN b\nRUN c\n")),
		llb.NewSourceMap(nil, "other.hcl", "HCL", []byte("x\ny\n")),
	}
	return c
}

func (c *client) chance(n int) bool { return c.IntN(n) == 0 }

func (c *client) word() string {
	words := []string{"a", "bc", "d-e", "f.g", "h_1", "ü", "i j", `k"l`}
	return words[c.IntN(len(words))]
}

func (c *client) words(n int) (out []string) {
	for range c.IntN(n) {
		out = append(out, c.word())
	}
	return out
}

func (c *client) path() string {
	p := ""
	for range 1 + c.IntN(3) {
		p += "/" + c.word()
	}
	return p
}

func (c *client) digest() digest.Digest { return digest.FromString(c.word()) }

func (c *client) platform() ocispec.Platform {
	return []ocispec.Platform{
		{OS: "linux", Architecture: "amd64"},
		{OS: "linux", Architecture: "arm", Variant: "v7"},
		{OS: "windows", Architecture: "amd64", OSVersion: "10.0.1", OSFeatures: []string{"win32k"}},
	}[c.IntN(3)]
}

// constraints returns what any operation may have besides.
func (c *client) constraints() (out []llb.ConstraintsOpt) {
	if c.chance(3) {
		out = append(out, llb.IgnoreCache)
	}
	if c.chance(3) {
		out = append(out, llb.WithCustomName("["+c.word()+"] "+c.word()))
	}
	if c.chance(4) {
		out = append(out, llb.WithDescription(map[string]string{c.word(): c.word(), "com.x": "y"}))
	}
	if c.chance(5) {
		out = append(out, llb.WithExportCache())
	} else if c.chance(5) {
		out = append(out, llb.WithoutExportCache())
	}
	if c.chance(4) {
		out = append(out, llb.ProgressGroup(c.word(), c.word(), c.chance(2)))
	}
	if c.chance(4) {
		out = append(out, llb.Platform(c.platform()))
	}
	for range c.IntN(3) {
		line := int32(1 + c.IntN(2))
		out = append(out, c.files[c.IntN(2)].Location([]*pb.Range{{
			Start: &pb.Position{Line: line, Character: 3}, End: &pb.Position{Line: line + int32(c.IntN(2))},
		}}))
	}
	return out
}

func (c *client) any() llb.State { return c.states[c.IntN(len(c.states))] }

func (c *client) image() llb.State {
	opts := []llb.ImageOption{}
	for _, o := range c.constraints() {
		opts = append(opts, o)
	}
	ref := []string{"busybox", "docker.io/library/busybox:1", "reg:5000/a/b:tag", "a@" + c.digest().String(), "x/y:v1@" + c.digest().String()}[c.IntN(5)]
	switch c.IntN(5) {
	case 0:
		opts = append(opts, llb.ResolveModeForcePull)
	case 1:
		opts = append(opts, llb.ResolveModePreferLocal)
	case 2:
		opts = append(opts, llb.MarkImageInternal)
	case 3:
		opts = append(opts, llb.WithLayerLimit(1+c.IntN(4)))
	case 4:
		opts = append(opts, llb.WithImageChecksum(c.digest()))
	}
	return llb.Image(ref, opts...)
}

func (c *client) local() llb.State {
	opts := []llb.LocalOption{llb.IncludePatterns(c.words(3)), llb.ExcludePatterns(c.words(3)), llb.FollowPaths(c.words(3))}
	for _, o := range c.constraints() {
		opts = append(opts, o)
	}
	if c.chance(2) {
		opts = append(opts, llb.SessionID(c.word()))
	}
	if c.chance(2) {
		opts = append(opts, llb.SharedKeyHint(c.word()))
	}
	if c.chance(2) {
		opts = append(opts, llb.LocalUniqueID(c.word()))
	}
	if c.chance(3) {
		opts = append(opts, llb.Differ([]llb.DiffType{llb.DiffNone, llb.DiffMetadata}[c.IntN(2)], c.chance(2)))
	}
	return llb.Local(c.word(), opts...)
}

func (c *client) git() llb.State {
	opts := []llb.GitOption{}
	for _, o := range c.constraints() {
		opts = append(opts, o)
	}
	add := func(o llb.GitOption) {
		if c.chance(3) {
			opts = append(opts, o)
		}
	}
	add(llb.GitSkipSubmodules())
	add(llb.GitMTimeCommit())
	add(llb.AuthTokenSecret("TOKEN"))
	add(llb.AuthHeaderSecret("HEADER"))
	add(llb.GitFetchByCommit())
	commit := strings.Repeat("c", 40)
	opts = append(opts, llb.GitChecksum(commit))
	frag := ""
	switch c.IntN(4) {
	case 0:
		frag = "main:sub/dir"
		add(llb.KeepGitDir())
	case 1:
		opts = append(opts, llb.GitCheckoutBundle())
	case 2:
		add(llb.KeepGitDir())
	case 3:
		ref := "oci-layout+blob://example.com/x@" + c.digest().String()
		opts = append(opts, llb.GitBundleURL(ref, llb.GitBundleOCIStore("session", "store")))
	}
	url := []string{"https://github.com/a/b.git", "https://user:pass@host:8080/x", "github.com/c/d", "http://h/p.git", "git://h/p"}[c.IntN(5)]
	if c.chance(5) {
		url = "git@github.com:a/b.git"
		opts = append(opts, llb.KnownSSHHosts("github.com key"), llb.MountSSHSock("id"))
	}
	return llb.Git(url, frag, opts...)
}

func (c *client) http() llb.State {
	opts := []llb.HTTPOption{}
	for _, o := range c.constraints() {
		opts = append(opts, o)
	}
	for _, o := range []llb.HTTPOption{
		llb.Checksum(c.digest()), llb.Filename(c.word()), llb.Chmod(os.FileMode(c.IntN(0o777))), llb.Chown(c.IntN(3), c.IntN(3)),
		llb.AuthHeaderSecret("S"), llb.Header(llb.HTTPHeader{Accept: "a/b", UserAgent: "u"}),
		llb.VerifyPGPSignature(llb.HTTPSignatureInfo{PubKey: []byte("K"), Signature: []byte("S")}),
	} {
		if c.chance(3) {
			opts = append(opts, o)
		}
	}
	return llb.HTTP([]string{"https://h/p?q=1", "http://h:1/x"}[c.IntN(2)], opts...)
}

func (c *client) source() llb.State {
	switch c.IntN(8) {
	case 0:
		return c.git()
	case 1:
		return c.http()
	case 2:
		return c.local()
	case 3:
		opts := []llb.OCILayoutOption{llb.OCIStore(c.word(), c.word())}
		if c.chance(2) {
			opts = append(opts, llb.OCILayerLimit(2))
		}
		return llb.OCILayout("example.com/a@"+c.digest().String(), opts...)
	case 4:
		return llb.ImageBlob("example.com/a@"+c.digest().String(), llb.Filename(c.word()), llb.Chown(1, 2), llb.Chmod(0o640))
	case 5:
		return llb.OCILayoutBlob("example.com/a@"+c.digest().String(), llb.ImageBlobOCIStore("s", "t"))
	}
	return c.image()
}

func (c *client) run() llb.State {
	opts := []llb.RunOption{llb.Args(append([]string{"cmd"}, c.words(3)...))}
	for _, o := range c.constraints() {
		opts = append(opts, o)
	}
	add := func(n int, o ...llb.RunOption) {
		if c.chance(n) {
			opts = append(opts, o...)
		}
	}
	st := c.any().Dir(c.path()).AddEnv("K", c.word())
	if c.chance(3) {
		st = st.User(c.word()).Hostname("host").Network(pb.NetMode(c.IntN(3))).Security(pb.SecurityMode(c.IntN(2)))
	}
	add(4, llb.AddExtraHost("h", net.ParseIP("10.0.0.1")), llb.AddExtraHost("h6", net.ParseIP("::1")))
	add(4, llb.AddUlimit(llb.UlimitNofile, 1, 2))
	add(4, llb.AddCDIDevice(llb.CDIDeviceName("v.com/d=1")), llb.AddCDIDevice(llb.CDIDeviceName("v.com/d=2"), llb.CDIDeviceOptional))
	add(4, llb.ValidExitCodes(0, 7))
	add(4, llb.WithCgroupParent("cg"))
	add(4, llb.WithProxy(llb.ProxyEnv{HTTPProxy: "a", NoProxy: "b"}), llb.WithLinuxResources(llb.LinuxResources{Memory: 1 << 30, CPUShares: 2, CpusetCpus: "0"}))
	add(4, llb.AddSecret("/run/secrets/a", llb.SecretID("id"), llb.SecretFileOpt(1, 2, 0o440)), llb.AddSecret("ENV", llb.SecretAsEnv(true), llb.SecretOptional))
	add(4, llb.AddSSHSocket(llb.SSHID("i")), llb.AddSSHSocket(llb.SSHSocketOpt("/sock", 1, 2, 0o600), llb.SSHOptional))
	add(4, llb.AddMount("/tmp", llb.Scratch(), llb.Tmpfs(llb.TmpfsSize(int64(c.IntN(2))))))
	add(4, llb.AddMount("/dev/shm", llb.Scratch(), llb.Tmpfs(llb.TmpfsSize(64<<20))))
	add(4, llb.AddMount("/cache", llb.Scratch(), llb.AsPersistentCacheDir(c.word(), llb.CacheMountSharingMode(c.IntN(3)))))
	add(4, llb.AddMount("/cache2", c.any(), llb.AsPersistentCacheDir(c.word(), llb.CacheMountShared), llb.SourcePath("/x")))
	add(3, llb.AddMount("/ro", c.any(), llb.Readonly, llb.SourcePath(c.path())))
	add(4, llb.AddMount("/off", c.any(), llb.Readonly, llb.ContentCache(llb.MountContentCacheOff)))
	add(4, llb.AddMount("/on", c.any(), llb.ForceNoOutput, llb.ContentCache(llb.MountContentCacheOn)))
	if c.chance(5) {
		opts = append(opts, llb.ReadonlyRootFS())
	}
	run := st.Run(opts...)
	if c.chance(3) {
		return run.AddMount("/out", c.any())
	}
	return run.Root()
}

// action returns a chain of file actions.
func (c *client) action() *llb.FileAction {
	owner := llb.WithUIDGID(c.IntN(3), c.IntN(3))
	if c.chance(3) {
		owner = llb.WithUser([]string{"name", "name:group", "name:7", "3:group", "root:0"}[c.IntN(5)])
	}
	created := llb.WithCreatedTime(time.Unix(int64(c.IntN(1000)), 5))
	var a *llb.FileAction
	for range 1 + c.IntN(4) {
		var next *llb.FileAction
		switch c.IntN(6) {
		case 0:
			next = llb.Mkdir(c.path(), 0o750, llb.WithParents(c.chance(2)), owner, created)
		case 1:
			next = llb.Mkfile(c.path(), 0o600, []byte(c.word()), owner)
		case 2:
			next = llb.Symlink(c.word(), c.path(), owner, created)
		case 3:
			next = llb.Rm(c.path(), llb.WithAllowNotFound(c.chance(2)), llb.WithAllowWildcard(c.chance(2)))
		case 4:
			next = llb.Copy(llb.Mkfile("/in", 0o644, nil).WithState(c.any()), "/in", c.path()+"/")
		default:
			info := &llb.CopyInfo{
				FollowSymlinks: c.chance(2), CopyDirContentsOnly: c.chance(2), IncludePatterns: c.words(3), ExcludePatterns: c.words(3),
				RequiredPaths: c.words(2), AttemptUnpack: c.chance(2), CreateDestPath: c.chance(2), AllowWildcard: c.chance(2),
				AllowEmptyWildcard: c.chance(2), AlwaysReplaceExistingDestPaths: c.chance(2),
			}
			if c.chance(3) {
				info.Mode = &llb.ChmodOpt{Mode: os.FileMode(c.IntN(0o777))}
			} else if c.chance(3) {
				info.Mode = &llb.ChmodOpt{ModeStr: "u=rwX"}
			}
			next = llb.Copy(c.any(), c.path(), c.path()+[]string{"", "/", "/."}[c.IntN(3)], info, owner)
		}
		a = chain(a, next)
	}
	return a
}

// chain puts b after a. The package has no way to do that with two that are made, except through its own constructors.
func chain(a, b *llb.FileAction) *llb.FileAction {
	if a == nil {
		return b
	}
	return a.Copy(b.WithState(llb.Scratch()), "/", "/")
}

func (c *client) file() llb.State {
	base := c.any()
	if c.chance(4) {
		base = llb.Scratch()
	}
	st := base.File(c.action(), c.constraints()...)
	return st
}

// graph returns a graph of about n operations.
func (c *client) graph(n int) llb.State {
	c.states = []llb.State{c.source(), c.source()}
	for range n {
		switch c.IntN(9) {
		case 0, 1:
			c.states = append(c.states, c.source())
		case 2, 3:
			c.states = append(c.states, c.run())
		case 4, 5:
			c.states = append(c.states, c.file())
		case 6:
			c.states = append(c.states, llb.Merge([]llb.State{c.any(), c.any(), c.any()}, c.constraints()...))
		case 7:
			lower := c.any()
			if c.chance(4) {
				c.states = append(c.states, lower.WithOutput(llb.NewDiff(llb.Scratch(), c.any(), llb.Constraints{}).Output()))
				continue
			}
			c.states = append(c.states, llb.Diff(lower, c.any(), c.constraints()...))
		case 8:
			if c.chance(2) {
				c.states = append(c.states, c.any().With(llbbuild.Build(llbbuild.WithFilename([]string{"", "f"}[c.IntN(2)]))))
			} else {
				p := llb.NewPassthroughOp("id"+c.word(), []llb.PassthroughInput{{State: c.any()}, {State: c.any(), Output: true}, {State: c.any(), Output: true}})
				c.states = append(c.states, llb.NewState(p.OutputAt(c.IntN(2))))
			}
		}
	}
	return llb.Merge(append([]llb.State{llb.Image("root")}, c.states...))
}

func (c *client) definition(t testing.TB, n int) *pb.Definition {
	t.Helper()
	def, err := c.graph(n).Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	return def.ToPB()
}
