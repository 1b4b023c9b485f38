package engine

import (
	"context"
	"net/http"
	"strings"
)

// An endpoint answers one request. An error is answered as docker does, unless the answer has begun.
type endpoint func(s *Server, ctx context.Context, c *call) error

// A route is a path of the API with what answers there. In the pattern "{name}" stands for one part of the path and
// "{name...}" for one or more: names of images have slashes.
type route struct {
	method, pattern string
	do              endpoint
}

// A node is a route with its pattern in parts.
type node struct {
	route
	parts []string
	many  int // the index of the part that stands for several, or -1
}

// table has the routes by the first part of their paths, in the order in which they are tried.
var table = func() map[string][]node {
	t := map[string][]node{}
	for _, r := range routes() {
		parts := strings.Split(r.pattern[1:], "/")
		n := node{route: r, parts: parts, many: -1}
		for i, p := range parts {
			if strings.HasSuffix(p, "...}") {
				n.many = i
			}
		}
		t[parts[0]] = append(t[parts[0]], n)
	}
	return t
}()

// find returns what answers a request, and what stands in the path for the variables of the pattern, in order; nil if
// nothing does.
func find(method, path string) (endpoint, []string) {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for _, n := range table[parts[0]] {
		if n.method != method {
			continue
		}
		if vars, ok := n.match(parts); ok {
			return n.do, vars
		}
	}
	return nil, nil
}

func (n *node) match(parts []string) (vars []string, ok bool) {
	extra := len(parts) - len(n.parts)
	if extra < 0 || extra > 0 && n.many < 0 {
		return nil, false
	}
	at := 0
	for i, p := range n.parts {
		got := parts[at]
		at++
		if i == n.many {
			got = strings.Join(parts[at-1:at+extra], "/")
			at += extra
		}
		switch {
		case !strings.HasPrefix(p, "{"): // it may be empty: /networks/
			if p != got {
				return nil, false
			}
		case got == "":
			return nil, false
		default:
			vars = append(vars, got)
		}
	}
	return vars, true
}

// routes are all paths, without the version.
func routes() []route {
	const get, head, post, put, del = http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete
	list := []route{
		{get, "/_ping", (*Server).ping},
		{head, "/_ping", (*Server).ping},
		{get, "/version", (*Server).version},
		{get, "/info", (*Server).info},
		{get, "/events", (*Server).events},
		{get, "/system/df", (*Server).diskUsage},
		{post, "/auth", (*Server).auth},

		{get, "/images/json", (*Server).listImages},
		{get, "/images/search", (*Server).searchImages},
		{get, "/images/get", (*Server).saveImages},
		{post, "/images/load", (*Server).loadImages},
		{post, "/images/create", (*Server).createImage},
		{post, "/images/prune", (*Server).pruneImages},
		{get, "/images/{name...}/json", (*Server).inspectImage},
		{get, "/images/{name...}/history", (*Server).imageHistory},
		{get, "/images/{name...}/get", (*Server).saveImages},
		{get, "/images/{name...}/attestations", (*Server).attestations},
		{post, "/images/{name...}/push", (*Server).pushImage},
		{post, "/images/{name...}/tag", (*Server).tagImage},
		{del, "/images/{name...}", (*Server).removeImage},
		{get, "/distribution/{name...}/json", (*Server).distribution},
		{post, "/commit", (*Server).commit},

		{post, "/build", (*Server).build},
		{post, "/build/prune", (*Server).pruneCache},
		{post, "/build/cancel", (*Server).cancelBuild},
		{post, "/session", (*Server).session},
		{post, "/grpc", (*Server).grpc},

		{get, "/volumes", (*Server).listVolumes},
		{get, "/volumes/{name}", (*Server).inspectVolume},
		{post, "/volumes/create", (*Server).createVolume},
		{post, "/volumes/prune", (*Server).pruneVolumes},
		{put, "/volumes/{name}", (*Server).updateVolume},
		{del, "/volumes/{name...}", (*Server).removeVolume},

		{get, "/networks", (*Server).listNetworks},
		{get, "/networks/", (*Server).listNetworks},
		{get, "/networks/{id...}", (*Server).inspectNetwork},
		{post, "/networks/create", (*Server).createNetwork},
		{post, "/networks/prune", (*Server).pruneNetworks},
		{post, "/networks/{id...}/connect", (*Server).connectNetwork},
		{post, "/networks/{id...}/disconnect", (*Server).disconnectNetwork},
		{del, "/networks/{id...}", (*Server).removeNetwork},
	}
	return append(append(list, containerRoutes()...), swarmRoutes()...)
}

// containerRoutes are the paths of containers and of processes in them.
func containerRoutes() []route {
	const get, head, post, put, del = http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete
	return []route{
		{get, "/containers/json", (*Server).listContainers},
		{post, "/containers/create", (*Server).createContainer},
		{post, "/containers/prune", (*Server).pruneContainers},
		{get, "/containers/{id}/json", (*Server).inspectContainer},
		{get, "/containers/{id}/top", (*Server).top},
		{get, "/containers/{id}/logs", (*Server).logs},
		{get, "/containers/{id}/changes", (*Server).changes},
		{get, "/containers/{id}/export", (*Server).export},
		{get, "/containers/{id}/stats", (*Server).stats},
		{get, "/containers/{id}/attach/ws", (*Server).attachWebSocket},
		{head, "/containers/{id}/archive", (*Server).statPath},
		{get, "/containers/{id}/archive", (*Server).copyFrom},
		{put, "/containers/{id}/archive", (*Server).copyTo},
		{post, "/containers/{id}/start", (*Server).start},
		{post, "/containers/{id}/stop", (*Server).stop},
		{post, "/containers/{id}/restart", (*Server).restart},
		{post, "/containers/{id}/kill", (*Server).kill},
		{post, "/containers/{id}/pause", (*Server).pause},
		{post, "/containers/{id}/unpause", (*Server).unpause},
		{post, "/containers/{id}/wait", (*Server).wait},
		{post, "/containers/{id}/resize", (*Server).resize},
		{post, "/containers/{id}/attach", (*Server).attach},
		{post, "/containers/{id}/update", (*Server).update},
		{post, "/containers/{id}/rename", (*Server).rename},
		{del, "/containers/{id}", (*Server).removeContainer},
		{get, "/containers/{id}/checkpoints", (*Server).checkpoints},
		{post, "/containers/{id}/checkpoints", (*Server).checkpoints},
		{del, "/containers/{id}/checkpoints/{checkpoint}", (*Server).checkpoints},

		{post, "/containers/{id}/exec", (*Server).execCreate},
		{post, "/exec/{id}/start", (*Server).execStart},
		{post, "/exec/{id}/resize", (*Server).execResize},
		{get, "/exec/{id}/json", (*Server).execInspect},
	}
}
