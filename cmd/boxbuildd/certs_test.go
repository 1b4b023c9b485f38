package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// An authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newKey makes a key and writes it.
func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(path, "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// template is a certificate that ends then.
func template(name string, end time.Time) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // never fails
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: end.Add(-48 * time.Hour), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
}

// newAuthority makes an authority, whose certificate it writes to name.pem.
func newAuthority(dir, name string) (*authority, error) {
	key, err := newKey(filepath.Join(dir, name+"-key.pem"))
	if err != nil {
		return nil, err
	}
	t := template(name, time.Now().Add(time.Hour))
	t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	a := &authority{key: key}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, writePEM(filepath.Join(dir, name+".pem"), "CERTIFICATE", der)
}

// sign makes name/cert.pem and name/key.pem, valid until end, for a server if it has addresses.
func (a *authority) sign(dir, name string, end time.Time, hosts ...string) error {
	dir = filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := newKey(filepath.Join(dir, "key.pem"))
	if err != nil {
		return err
	}
	t := template(name, end)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, h := range hosts {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE", a.cert.Raw); err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, "cert.pem"), "CERTIFICATE", der)
}

// makeCertificates makes what tests of TLS need: an authority "ca" that has signed "server" (for 127.0.0.1 and
// builder.test), "client" and "expired", and another one that has signed "stranger" and "impostor".
func makeCertificates(dir string) error {
	ca, err := newAuthority(dir, "ca")
	if err != nil {
		return err
	}
	other, err := newAuthority(dir, "other")
	if err != nil {
		return err
	}
	soon := time.Now().Add(time.Hour)
	for _, c := range []struct {
		by    *authority
		name  string
		end   time.Time
		hosts []string
	}{
		{ca, "server", soon, []string{"127.0.0.1", "builder.test"}},
		{ca, "client", soon, nil},
		{ca, "expired", time.Now().Add(-time.Hour), nil},
		{other, "stranger", soon, nil},
		{other, "impostor", soon, []string{"127.0.0.1"}},
	} {
		if err := c.by.sign(dir, c.name, c.end, c.hosts...); err != nil {
			return err
		}
	}
	return nil
}
