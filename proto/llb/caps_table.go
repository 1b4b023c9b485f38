package llb

// have marks in a table a capability that boxbuild has. The others say why not.
const have = ""

// capabilities are all that LLB has. What is lacking is refused in a definition, and announced to clients as disabled, so that
// they do without.
var capabilities = table(known, lacking)

// gatewayCapabilities are all that the gateway protocol has.
var gatewayCapabilities = table(knownGateway, lackingGateway)

func table(known []string, lacking map[string]string) map[string]string {
	t := make(map[string]string, len(known))
	for _, id := range known {
		t[id] = lacking[id]
	}
	return t
}

// lacking are the capabilities of LLB that boxbuild has not, and why.
var lacking = map[string]string{
	"exec.meta.network.proxy":     "there is no proxy that records what steps fetch",
	"cache.gha":                   "cache records are not exported to GitHub's cache",
	"cache.s3":                    "cache records are not exported to S3",
	"cache.azblob":                "cache records are not exported to Azure",
	"exporter.image.attestations": "images get no attestations",
}

// lackingGateway is lacking for the gateway protocol.
var lackingGateway = map[string]string{
	"importcaches":           "cache records are not imported",
	"reference.attestations": "images get no attestations",
}

// known are the capabilities of LLB, in the order of package pb. One is added here when it has been decided whether boxbuild
// has it.
var known = []string{
	"source.image",
	"source.image.resolvemode",
	"source.image.layerlimit",
	"source.image.checksum",
	"source.local",
	"source.local.unique",
	"source.local.sessionid",
	"source.local.includepatterns",
	"source.local.followpaths",
	"source.local.excludepatterns",
	"source.local.sharedkeyhint",
	"source.local.differ",
	"source.local.metadatatransfer",
	"source.git",
	"source.git.keepgitdir",
	"source.git.fullurl",
	"source.git.httpauth",
	"source.git.knownsshhosts",
	"source.git.mountsshsock",
	"source.git.subdir",
	"source.git.checksum",
	"source.git.skipsubmodules",
	"source.git.signatureverify",
	"source.git.mtime",
	"source.git.fetchbycommit",
	"source.git.bundle",
	"source.git.checkoutbundle",
	"source.http",
	"source.http.auth",
	"source.http.checksum",
	"source.http.perm",
	"soruce.http.uidgid",
	"source.http.header",
	"source.http.signatureverify",
	"source.imageblob",
	"source.ocilayout",
	"source.buildop.llbfilename",
	"exec.meta.base",
	"exec.meta.cgroup.parent",
	"exec.meta.network",
	"exec.meta.network.proxy",
	"exec.meta.proxyenv",
	"exec.meta.security",
	"exec.meta.security.devices.v1",
	"exec.meta.setsdefaultpath",
	"exec.meta.ulimit",
	"exec.meta.cdi",
	"exec.meta.removemountstubs.recursive",
	"exec.meta.linux.resources",
	"exec.mount.bind",
	"exec.mount.bind.readwrite-nooutput",
	"exec.mount.cache",
	"exec.mount.cache.sharing",
	"exec.mount.selector",
	"exec.mount.tmpfs",
	"exec.mount.tmpfs.size",
	"exec.mount.secret",
	"exec.mount.ssh",
	"exec.mount.cache.content",
	"exec.cgroup",
	"exec.secretenv",
	"exec.validexitcode",
	"file.base",
	"file.rm.wildcard",
	"file.copy.includeexcludepatterns",
	"file.copy.requiredpaths",
	"file.rm.nofollowsymlink",
	"file.copy.alwaysreplaceexistingdestpaths",
	"file.copy.modestring",
	"file.symlink.create",
	"constraints",
	"platform",
	"meta.ignorecache",
	"meta.description",
	"meta.exportcache",
	"cache.gha",
	"cache.s3",
	"cache.azblob",
	"mergeop",
	"diffop",
	"passthroughop",
	"exporter.image.annotations",
	"exporter.image.attestations",
	"exporter.sourcedateepoch",
	"exporter.multiple",
	"exporter.session",
	"source.policy",
	"source.policy.session",
	"gc.freespacefilter",
	"history.filter",
}

// knownGateway is known for the gateway protocol.
var knownGateway = []string{
	"solve.base",
	"solve.inlinereturn",
	"resolveimage",
	"resolveimage.resolvemode",
	"readfile",
	"return",
	"returnmap",
	"readdir",
	"statfile",
	"importcaches",
	"proto.refarray",
	"reference.output",
	"frontend.inputs",
	"gateway.solve.metadata",
	"gateway.exec",
	"gateway.exec.extrahosts",
	"gateway.exec.secretenv",
	"gateway.exec.signals",
	"gateway.exec.filesystem",
	"frontend.caps",
	"gateway.solve.evaluate",
	"gateway.evaluate",
	"gateway.warnings",
	"reference.attestations",
	"source.metaresolver",
	"source.metaresolver.image.attestations",
	"source.metaresolver.http.checksumrequest",
}
