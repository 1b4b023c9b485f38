package network

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/netns"
)

// settle is how long a change of the rules of others is waited for to be complete.
const settle = 50 * time.Millisecond

// legacyEvery is how often the tables of the older iptables are looked at, if there are any.
const legacyEvery = 10 * time.Second

// watchLegacy does what watch does for the tables of the older iptables, of whose changes the kernel tells nobody: Docker, when
// it starts, has them drop what is not its own. It ends with ctx.
func (s *Service) watchLegacy(ctx context.Context, tick <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		if netns.HasLegacy() {
			s.mendRules(ctx, true)
		}
	}
}

// watch makes the rules again when somebody has removed them, as "nft flush ruleset" and the reloading of some firewalls
// do, and opens new forward chains that drop for our bridges. It ends with ctx.
func (s *Service) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.watchOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("watching the packet filter", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		s.mendRules(ctx, true)
	}
}

// watchOnce follows the kernel's reports until there is an error, such as that they came too fast.
func (s *Service) watchOnce(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	sock := os.NewFile(uintptr(fd), "nftables reports")
	defer sock.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	defer context.AfterFunc(ctx, func() { sock.Close() })()
	own := "boxbuild_" + s.opts.ID
	buf := make([]byte, 64<<10)
	for {
		n, err := sock.Read(buf)
		foreign, lost := true, true
		if err == nil {
			foreign, lost = readReports(buf[:n], own)
		} else if !errors.Is(err, unix.ENOBUFS) { // which says that there were more than there was room for
			return err
		}
		if !foreign && !lost {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
		s.mendRules(ctx, foreign)
	}
}

// readReports says what reports of the kernel tell: of changes of tables or chains whose names do not begin with own, and
// of tables that do and are gone.
func readReports(b []byte, own string) (foreign, lost bool) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return true, true
	}
	for _, m := range messages {
		kind := m.Header.Type & 0xff
		switch {
		case m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES:
			continue
		case kind != unix.NFT_MSG_NEWTABLE && kind != unix.NFT_MSG_DELTABLE && kind != unix.NFT_MSG_NEWCHAIN && kind != unix.NFT_MSG_DELCHAIN:
			continue
		}
		if !strings.HasPrefix(tableName(m.Data), own) {
			foreign = true
		} else if kind == unix.NFT_MSG_DELTABLE {
			lost = true
		}
	}
	return foreign, lost
}

// tableName returns the name of the table that a report is about: it is the first attribute in those of chains, too.
func tableName(b []byte) string {
	const head, attrHead, name = 4, 4, 1 // struct nfgenmsg, struct nlattr, NFTA_TABLE_NAME
	for b = b[min(head, len(b)):]; len(b) >= attrHead; {
		length := int(binary.NativeEndian.Uint16(b))
		if length < attrHead || length > len(b) {
			return ""
		}
		if binary.NativeEndian.Uint16(b[2:])&0x3fff == name {
			return strings.TrimRight(string(b[attrHead:length]), "\x00")
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return ""
}

// mendRules makes the table again if it is not there, and looks at the chains of others if they have changed.
func (s *Service) mendRules(ctx context.Context, foreign bool) {
	s.mendTable(ctx)
	if !foreign {
		return
	}
	s.mu.Lock()
	var ids []string
	for id, n := range s.networks {
		if n.bridge != 0 {
			ids = append(ids, id)
		}
	}
	s.mu.Unlock()
	for _, id := range ids {
		if err := s.letPass(ctx, id); err != nil && ctx.Err() == nil {
			s.log.Warn("letting packets of containers pass another firewall", "network", id, "error", err)
		}
	}
}

func (s *Service) mendTable(ctx context.Context) {
	leave, err := s.turns.take(ctx, "table")
	if err != nil {
		return
	}
	defer leave()
	there, err := s.table.There()
	if err == nil && !there {
		s.log.Info("somebody has removed the packet filter rules of containers; they are made again")
		err = s.table.Make(s.state())
	}
	if err != nil {
		s.log.Warn("making the packet filter rules of containers again", "error", err)
	}
}

// letPass opens the chains of others for a network, unless it has been removed meanwhile.
func (s *Service) letPass(ctx context.Context, id string) error {
	leave, err := s.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer leave()
	s.mu.Lock()
	n := s.networks[id]
	up := n != nil && n.bridge != 0
	s.mu.Unlock()
	if !up {
		return nil
	}
	return s.passage(n.bridgeName()).Open()
}
