package history

import (
	"maps"
	"net/url"
	"strings"

	"github.com/boxbuild/boxbuild/worker"
)

// redact returns o without the credentials that URLs in it have.
func redact(o worker.Origin) worker.Origin {
	o.Attrs = redactValues(o.Attrs)
	outputs := make([]worker.OriginOutput, len(o.Outputs))
	for i, out := range o.Outputs {
		outputs[i] = worker.OriginOutput{Type: out.Type, Attrs: redactValues(out.Attrs)}
	}
	o.Outputs = outputs
	return o
}

func redactValues(in map[string]string) map[string]string {
	out := maps.Clone(in)
	for k, v := range out {
		if strings.Contains(v, "://") && strings.Contains(v, "@") {
			out[k] = redactURL(v)
		}
	}
	return out
}

// redactURL masks the password in a URL; or the user where there is no password, which with HTTP is a token then.
func redactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		return raw
	}
	if _, has := u.User.Password(); !has && strings.HasPrefix(u.Scheme, "http") {
		u.User = url.User("xxxxx")
	}
	return u.Redacted()
}
