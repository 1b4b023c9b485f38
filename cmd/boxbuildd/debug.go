package main

import (
	"context"
	"expvar"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/worker/telemetry"
)

// A debugServer tells operators how the daemon does: /metrics, /healthz (it lives), /readyz (it takes builds), and to
// clients on this machine alone /debug/pprof and /debug/vars, since a heap has secrets in it.
type debugServer struct {
	http     *http.Server
	listener net.Listener
	remove   func()
	ended    chan error
}

// health is what the probes ask. Both return why not.
type probes struct {
	alive, ready func(ctx context.Context) error
}

// startDebug serves at a.
func startDebug(a config.Address, t *telemetry.Telemetry, p probes, log *slog.Logger) (*debugServer, error) {
	mux := http.NewServeMux()
	if t != nil && t.Metrics != nil {
		mux.Handle("/metrics", t.Metrics.Handler())
	}
	mux.Handle("/healthz", probe(p.alive))
	mux.Handle("/readyz", probe(p.ready))
	inside := http.NewServeMux()
	inside.HandleFunc("/debug/pprof/", pprof.Index)
	inside.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	inside.HandleFunc("/debug/pprof/profile", pprof.Profile)
	inside.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	inside.HandleFunc("/debug/pprof/trace", pprof.Trace)
	inside.Handle("/debug/vars", expvar.Handler())
	mux.Handle("/debug/", thisMachine(inside))

	d := &debugServer{ended: make(chan error, 1), remove: func() {}}
	if a.Network == "unix" {
		s, err := listenUnix(a.Name, -1, -1)
		if err != nil {
			return nil, err
		}
		d.listener, d.remove = s, s.remove
	} else {
		l, err := net.Listen("tcp", a.Name)
		if err != nil {
			return nil, fmt.Errorf("listening for metrics at %s: %w", a, err)
		}
		d.listener = l
	}
	d.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: sniffTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	log.Info("serving metrics", "addr", d.listener.Addr().Network()+"://"+d.listener.Addr().String())
	go func() { d.ended <- d.http.Serve(d.listener) }()
	return d, nil
}

// close ends the server; nil is none.
func (d *debugServer) close() {
	if d == nil {
		return
	}
	d.remove()
	_ = d.http.Close()
	<-d.ended
}

func probe(ask func(context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := ask(r.Context()); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	})
}

// thisMachine refuses whoever is not on this machine, and pages of the web in a browser that is.
func thisMachine(next http.Handler) http.Handler {
	guarded := noBrowsers(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer, err := netip.ParseAddrPort(r.RemoteAddr); err != nil {
			r = r.WithContext(context.WithValue(r.Context(), trustKey{}, local)) // a socket in the file system
		} else if !peer.Addr().Unmap().IsLoopback() {
			refuse(w, http.StatusForbidden, "profiles are for clients on this machine")
			return
		}
		guarded.ServeHTTP(w, r)
	})
}
