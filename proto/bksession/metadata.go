package bksession

import (
	"net/url"

	"google.golang.org/grpc/metadata"
)

// encodeMetadata makes of md what can be sent as headers, in BuildKit's way: if a value of a key has other characters
// than ASCII's, all of them are escaped as in a URL's query, and the key with "-encoded" behind it says so. Clients that
// know nothing of that see what they always saw.
//
// Control characters cannot be in a header either. BuildKit lets the call fail; they are escaped here.
func encodeMetadata(md metadata.MD) metadata.MD {
	out := make(metadata.MD, len(md))
	for k, vs := range md {
		if sendable(vs) {
			out[k] = vs
			continue
		}
		escaped := make([]string, len(vs))
		for i, v := range vs {
			escaped[i] = url.QueryEscape(v)
		}
		out[k] = escaped
		out[k+"-encoded"] = []string{"1"}
	}
	return out
}

func sendable(vs []string) bool {
	for _, v := range vs {
		for i := range len(v) {
			if v[i] < ' ' || v[i] > '~' {
				return false
			}
		}
	}
	return true
}
