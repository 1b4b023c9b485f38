package native

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A Peer is who is at the other end of a local socket, as the kernel says.
type Peer struct {
	credentials.CommonAuthInfo
	PID      int32
	UID, GID uint32
}

// AuthType implements credentials.AuthInfo.
func (Peer) AuthType() string { return "peercred" }

// peerCredentials learns who connects. It encrypts nothing and refuses nobody: who may connect is what the mode of the
// socket says.
type peerCredentials struct{}

// ServerHandshake implements credentials.TransportCredentials.
func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}
	sc, ok := conn.(syscall.Conn)
	if !ok || conn.LocalAddr().Network() != "unix" {
		return conn, anonymous{info}, nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("looking at a connection: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, nil, fmt.Errorf("looking at a connection: %w", err)
	}
	if credErr != nil {
		return nil, nil, fmt.Errorf("asking who connects: %w", credErr)
	}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return conn, Peer{CommonAuthInfo: info, PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}, nil
}

// anonymous is the AuthInfo of a peer that is not on a local socket.
type anonymous struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (anonymous) AuthType() string { return "anonymous" }

// ClientHandshake implements credentials.TransportCredentials; the credentials are a server's only.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for servers")
}

// Info implements credentials.TransportCredentials.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

// Clone implements credentials.TransportCredentials.
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

// OverrideServerName implements credentials.TransportCredentials.
func (peerCredentials) OverrideServerName(string) error { return nil }

// trusted returns nil if the daemon may use its own rights on files for the peer of ctx.
func trusted(ctx context.Context) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return failure(boxbuildv1.ErrorKind_ERROR_KIND_DENIED, "the client is not known")
	}
	who, ok := p.AuthInfo.(Peer)
	if !ok {
		return failure(boxbuildv1.ErrorKind_ERROR_KIND_DENIED, "the client is not on this machine")
	}
	if own := uint32(os.Geteuid()); who.UID != 0 && who.UID != own {
		return failure(boxbuildv1.ErrorKind_ERROR_KIND_DENIED,
			"the daemon runs as user %d and the client as user %d", own, who.UID)
	}
	return nil
}

// sameDirectory returns nil if d is a directory that the daemon sees as the client does: a client in another mount
// namespace may mean something else by the path.
func sameDirectory(d *boxbuildv1.Directory) error {
	if len(d.GetPath()) == 0 || d.GetPath()[0] != '/' {
		return usage("directory %q: the path is not absolute", d.GetPath())
	}
	var st unix.Stat_t
	if err := unix.Stat(d.GetPath(), &st); err != nil {
		return failure(boxbuildv1.ErrorKind_ERROR_KIND_DENIED, "the daemon does not see %s: %v", d.GetPath(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return usage("%s is not a directory", d.GetPath())
	}
	if st.Dev != d.GetDevice() || st.Ino != d.GetInode() {
		return failure(boxbuildv1.ErrorKind_ERROR_KIND_DENIED,
			"the daemon sees another directory at %s than the client", d.GetPath())
	}
	return nil
}
