package llb

// unlisted are capabilities that package pb has a name for but does not announce. Clients do not ask for them.
var unlisted = []string{
	"exec.meta.removemountstubs.recursive",
	"file.copy.modestring",
}

// lacking are the capabilities of LLB that boxbuild has not, and why.
var lacking = map[string]string{
	"exec.meta.network.proxy":       "there is no proxy that records what steps fetch",
	"cache.gha":                     "cache records are not exported to GitHub's cache",
	"cache.s3":                      "cache records are not exported to S3",
	"cache.azblob":                  "cache records are not exported to Azure",
	"exporter.image.attestations":   "images get no attestations",
	"exporter.session":              "a client cannot choose outputs after the build",
	"source.policy":                 "there are no source policies",
	"source.policy.session":         "there are no source policies",
	"source.local.metadatatransfer": "directories are always sent with their files",
}

// lackingGateway are the capabilities of the gateway protocol that boxbuild has not, and why.
var lackingGateway = map[string]string{
	"importcaches":                           "cache records are not imported",
	"reference.attestations":                 "images get no attestations",
	"source.metaresolver.image.attestations": "attestations of images are not read",
}
