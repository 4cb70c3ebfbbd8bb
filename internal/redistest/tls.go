package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An authority is a certificate authority made for one server, together with the server's certificate.
type authority struct {
	certificate *x509.Certificate
	dir         string
}

// newAuthority makes the keys and writes what Redis needs of them to the directory.
func newAuthority(t testing.TB, dir string) *authority {
	t.Helper()
	root, rootKey := template("redistest authority"), newKey(t)
	root.IsCA, root.BasicConstraintsValid = true, true
	root.KeyUsage = x509.KeyUsageCertSign
	a := &authority{dir: dir}
	a.certificate = a.sign(t, "authority.crt", root, root, &rootKey.PublicKey, rootKey)

	leaf, leafKey := template("redistest server"), newKey(t)
	leaf.IPAddresses, leaf.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	// Both, because the nodes of a cluster are each other's clients.
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	a.sign(t, "server.crt", leaf, a.certificate, &leafKey.PublicKey, rootKey)
	encoded, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal("redistest: ", err)
	}
	a.write(t, "server.key", "PRIVATE KEY", encoded)
	return a
}

// client returns what a client needs to trust this server and no other. It names the address, so that it
// also serves a connection through a [Proxy].
func (a *authority) client() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	return &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
}

// arguments tell redis-server where its keys are, and to take clients without a certificate.
func (a *authority) arguments() []string {
	return []string{
		"--tls-ca-cert-file", filepath.Join(a.dir, "authority.crt"),
		"--tls-cert-file", filepath.Join(a.dir, "server.crt"),
		"--tls-key-file", filepath.Join(a.dir, "server.key"),
		"--tls-auth-clients", "no",
	}
}

func (a *authority) sign(t testing.TB, file string, child, parent *x509.Certificate, public *ecdsa.PublicKey, private *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	encoded, err := x509.CreateCertificate(rand.Reader, child, parent, public, private)
	if err != nil {
		t.Fatal("redistest: ", err)
	}
	signed, err := x509.ParseCertificate(encoded)
	if err != nil {
		t.Fatal("redistest: ", err)
	}
	a.write(t, file, "CERTIFICATE", encoded)
	return signed
}

func (a *authority) write(t testing.TB, file, kind string, encoded []byte) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: encoded})
	if err := os.WriteFile(filepath.Join(a.dir, file), text, 0o600); err != nil {
		t.Fatal("redistest: ", err)
	}
}

// template is valid from an hour ago, for clocks that jump, to the end of any test.
func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal("redistest: ", err)
	}
	return key
}
