package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// TLS names the files, in PEM, by which both sides of a connection know one another.
type TLS struct {
	// Cert and Key are the own certificate, with those between it and its authority, and its key.
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	// CA is the certificate of the authority that signs the certificates of the other side.
	CA string `toml:"ca"`
}

// Enabled says whether there is anything.
func (t TLS) Enabled() bool { return t != TLS{} }

// Server returns what a daemon serves with: TLS 1.2 or later, and with a CA only for clients whose certificate it has
// signed. The files are read anew for each connection that comes after they have changed.
func (t TLS) Server() (*tls.Config, error) {
	if t.Cert == "" || t.Key == "" {
		return nil, errors.New("serving with TLS: a certificate and its key are needed (--tlscert, --tlskey)")
	}
	if _, err := t.server(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Certificates are renewed while a daemon runs. To read two small files costs a tenth of a handshake.
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			cfg, err := t.server()
			// HTTP/2 is for gRPC, whose clients offer nothing else; all others get what they ask for over HTTP/1.1.
			if err == nil && slices.Contains(hello.SupportedProtos, "http/1.1") {
				cfg.NextProtos = []string{"http/1.1"}
			}
			return cfg, err
		},
	}, nil
}

func (t TLS) server() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of the daemon: %w", err)
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{pair},
		// A session that was resumed would not have its client's certificate looked at again.
		SessionTicketsDisabled: true,
	}
	if t.CA != "" {
		if cfg.ClientCAs, err = readCA(t.CA); err != nil {
			return nil, err
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return cfg, nil
}

// Client returns what a client connects with. The daemon's certificate is for name, and signed by CA, or if there is none
// by an authority that the system trusts.
func (t TLS) Client(name string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name, NextProtos: []string{"h2"}}
	if (t.Cert == "") != (t.Key == "") {
		return nil, errors.New("a client certificate needs its key, and a key its certificate (--tlscert, --tlskey)")
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	if t.CA != "" {
		var err error
		if cfg.RootCAs, err = readCA(t.CA); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

func readCA(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of the authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("reading the certificate of the authority: %s has none", path)
	}
	return pool, nil
}

// dirTLS returns the files of a directory that are there: ca.pem, cert.pem, key.pem, as buildctl has them.
func dirTLS(dir string) (TLS, error) {
	if st, err := os.Stat(dir); err != nil {
		return TLS{}, fmt.Errorf("--tlsdir: %w", err)
	} else if !st.IsDir() {
		return TLS{}, fmt.Errorf("--tlsdir: %s is not a directory", dir)
	}
	var t TLS
	for name, to := range map[string]*string{"ca.pem": &t.CA, "cert.pem": &t.Cert, "key.pem": &t.Key} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			*to = path
		}
	}
	return t, nil
}
