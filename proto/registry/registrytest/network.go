package registrytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Start serves h on a loopback port over plain HTTP until the test ends, and returns "127.0.0.1:port".
func Start(tb testing.TB, h http.Handler) string {
	tb.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	tb.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// A Network is a network of its own: names, ports and servers, without sockets. Its Dial is a registry client's. Names
// that no server has refuse the connection.
type Network struct {
	mu      sync.Mutex // guards servers, dials and running
	servers map[string]*pipeListener
	dials   map[string]int
	running []*http.Server
	serving sync.WaitGroup // one for each running server
	ca      *x509.Certificate
	key     *ecdsa.PrivateKey
}

// cas counts the authorities of all networks.
var cas atomic.Int64

// NewNetwork returns a network without servers. Close it when the test ends; inside a synctest bubble, before the bubble
// does.
func NewNetwork() *Network {
	n := &Network{servers: map[string]*pipeListener{}, dials: map[string]int{}}
	n.key = newKey()
	n.ca = &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	// A client tells authorities apart by their names.
	n.ca.Subject = pkix.Name{CommonName: fmt.Sprint("registrytest ", cas.Add(1))}
	der := n.sign(n.ca, &n.key.PublicKey)
	var err error
	if n.ca, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	return n
}

func newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

// sign fills in what every certificate has and signs it. The dates cover the clock of a synctest bubble.
func (n *Network) sign(c *x509.Certificate, pub *ecdsa.PublicKey) []byte {
	c.SerialNumber = big.NewInt(1)
	c.NotBefore = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	c.NotAfter = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
	der, err := x509.CreateCertificate(rand.Reader, c, n.ca, pub, n.key)
	if err != nil {
		panic(err)
	}
	return der
}

// CA returns the certificate that the network's TLS servers are verified with, in PEM.
func (n *Network) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: n.ca.Raw})
}

// ClientCert returns a client certificate and its key, in PEM.
func (n *Network) ClientCert() (cert, key []byte) {
	k := newKey()
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "client"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: n.sign(c, &k.PublicKey)}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// HTTP serves h at "host:port" without TLS.
func (n *Network) HTTP(addr string, h http.Handler) {
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Hour}
	l := n.listen(addr, s)
	n.serving.Go(func() { s.Serve(l) }) //nolint:errcheck // it ends with Close
}

// HTTPS serves h at "host:port" over TLS, HTTP/2 included.
func (n *Network) HTTPS(addr string, h http.Handler) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err)
	}
	k := newKey()
	c := &x509.Certificate{Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	}
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Hour, TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{n.sign(c, &k.PublicKey)}, PrivateKey: k}},
	}}
	l := n.listen(addr, s)
	n.serving.Go(func() { s.ServeTLS(l, "", "") }) //nolint:errcheck // it ends with Close
}

func (n *Network) listen(addr string, s *http.Server) *pipeListener {
	l := &pipeListener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.servers[addr] = l
	n.running = append(n.running, s)
	return l
}

// Dial connects to a server of the network.
func (n *Network) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[addr]++
	l := n.servers[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: pipeAddr(addr), Err: syscall.ECONNREFUSED}
	}
	here, there := newPipe(addr)
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: network, Addr: pipeAddr(addr), Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Dials returns how often a connection to "host:port" was asked for.
func (n *Network) Dials(addr string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[addr]
}

// Remove takes a server off the network: connections to it are refused.
func (n *Network) Remove(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.servers, addr)
}

// Close ends all servers and their connections.
func (n *Network) Close() {
	n.mu.Lock()
	running := n.running
	n.running = nil
	n.mu.Unlock()
	for _, s := range running {
		s.Close()
	}
	n.serving.Wait()
}

// A pipeListener accepts what Dial hands it.
type pipeListener struct {
	addr   string
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, errors.New("the listener is closed")
	}
}

// Close implements net.Listener.
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.addr) }

type pipeAddr string

func (a pipeAddr) Network() string { return "pipe" }
func (a pipeAddr) String() string  { return string(a) }
