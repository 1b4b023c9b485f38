package main

import "github.com/boxbuild/boxbuild/proto/boxbuild/v1"

// parsePlatforms reads a list of them.
func parsePlatforms(list []string) ([]*boxbuildv1.Platform, error) {
	var out []*boxbuildv1.Platform
	for _, s := range list {
		p, err := parsePlatform(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}
