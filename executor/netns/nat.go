package netns

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func tableName(id string) string { return "boxbuild_" + id }

// makeTable makes the daemon's own table. Being its own, neither Docker's, podman's and firewalld's rules nor their
// reloading touch it, and it touches none of them.
func (n *network) makeTable(hostAccess bool) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName(n.id)})
	chain := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) func(...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: typ, Hooknum: hook, Priority: prio})
		return func(parts ...[]expr.Any) {
			var exprs []expr.Any
			for _, p := range parts {
				exprs = append(exprs, p...)
			}
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: exprs})
		}
	}
	br := bridgeName(n.id)
	in, notIn, out, notOut := inIf(br, true), inIf(br, false), outIf(br, true), outIf(br, false)

	// Outwards with the host's address.
	rule := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	rule(source(n.subnet, true), notOut, []expr.Any{&expr.Masq{}})

	// The forwarder listens on a port that was free: 53 may be taken by a server that listens on all addresses.
	rule = chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		rule(in, destination(n.gateway), port(proto, 53), redirect(n.dns.port))
	}

	rule = chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	if !hostAccess {
		rule(in, established(), verdict(expr.VerdictAccept))
		for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			rule(in, source(n.subnet, true), destination(n.gateway), port(proto, n.dns.port), verdict(expr.VerdictAccept))
		}
		// A reset for TCP, as the kernel limits the rate of ICMP errors, and the sandbox would wait for another try.
		rule(in, l4proto(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
		rule(in, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}}) // port unreachable
	}
	// The bridge's address is for sandboxes, and for the host itself, whose packets come in by lo.
	rule(notIn, inIf("lo", false), destination(n.gateway), verdict(expr.VerdictDrop))

	rule = chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	rule(in, source(n.subnet, false), verdict(expr.VerdictDrop)) // a forged address
	rule(in, out, verdict(expr.VerdictDrop))
	rule(out, established(), verdict(expr.VerdictAccept))
	rule(out, verdict(expr.VerdictDrop))
	return c.Flush()
}

// removeTable removes the daemon's table, and its rules in other tables.
func removeTable(id string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("listing nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == tableName(id) {
			c.DelTable(t)
			if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("removing nftables table %s: %w", t.Name, err)
			}
		}
	}
	return Passage{Tag: tableName(id), Bridge: bridgeName(id)}.Close()
}

// A Passage lets packets of a bridge pass where someone else's forward chain drops what it does not know, as Docker's and
// many firewalls' do: a packet has to pass the chains of all tables. For iptables on nftables, a rule is put in front of
// each such chain; for the older iptables, with the iptables-legacy program.
type Passage struct {
	Tag       string // marks the rules
	Bridge    string
	Published bool // also packets to addresses that destination NAT has put there
}

// Open adds the rules that are missing.
func (p Passage) Open() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	err = eachForwardChain(c, func(ch *nftables.Chain) error {
		if ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop || p.isOpen(c, ch) {
			return nil
		}
		matches := [][]expr.Any{inIf(p.Bridge, true), append(outIf(p.Bridge, true), established()...)}
		if p.Published {
			matches = append(matches, append(outIf(p.Bridge, true), destinationNAT()...))
		}
		for _, match := range matches {
			c.InsertRule(&nftables.Rule{
				Table: ch.Table, Chain: ch, UserData: p.mark(),
				Exprs: append(append(match, &expr.Counter{}), verdict(expr.VerdictAccept)...),
			})
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("accepting packets in %s %s: %w", ch.Table.Name, ch.Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.legacy("-I")
}

// mark is what the rules of the passage have for user data.
func (p Passage) mark() []byte {
	if p.Published {
		return []byte(p.Tag + " " + p.Bridge)
	}
	return []byte(p.Tag)
}

func (p Passage) isOpen(c *nftables.Conn, ch *nftables.Chain) bool {
	rules, err := c.GetRules(ch.Table, ch)
	return err == nil && slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return bytes.Equal(r.UserData, p.mark()) })
}

// Close removes the rules. That there are none is no error.
func (p Passage) Close() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	if err := eachForwardChain(c, func(ch *nftables.Chain) error { return removeAccepts(c, ch, p.mark()) }); err != nil {
		return err
	}
	return p.legacy("-D")
}

// eachForwardChain calls f with the forward chains of all tables of IP but those of boxbuild daemons.
func eachForwardChain(c *nftables.Conn, f func(*nftables.Chain) error) error {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet} {
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil {
			return fmt.Errorf("listing nftables chains: %w", err)
		}
		for _, ch := range chains {
			if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Type != nftables.ChainTypeFilter ||
				strings.HasPrefix(ch.Table.Name, tableName("")) {
				continue
			}
			if err := f(ch); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeAccepts(c *nftables.Conn, ch *nftables.Chain, mark []byte) error {
	rules, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return nil // the chain has gone in the meantime, and the rules with it
	}
	for _, r := range rules {
		if bytes.Equal(r.UserData, mark) {
			if err := c.DelRule(r); err != nil {
				return fmt.Errorf("removing a rule of %s %s: %w", ch.Table.Name, ch.Name, err)
			}
		}
	}
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing rules of %s %s: %w", ch.Table.Name, ch.Name, err)
	}
	return nil
}

// legacyTables are the files that name the tables of the older iptables, and the programs that change them. The files are
// the thread's: the process's first thread may be one that has been left in another namespace.
var legacyTables = map[string]string{"/proc/thread-self/net/ip_tables_names": "iptables-legacy", "/proc/thread-self/net/ip6_tables_names": "ip6tables-legacy"}

// HasLegacy says whether there are tables of the older iptables that filter: the kernel tells nobody when they change.
func HasLegacy() bool {
	for names := range legacyTables {
		if tables, err := os.ReadFile(names); err == nil && strings.Contains(string(tables), "filter") {
			return true
		}
	}
	return false
}

// legacy inserts (-I) or deletes (-D) the rules in the tables of the older iptables, if the kernel has them and their
// FORWARD chain drops.
func (p Passage) legacy(action string) error {
	var errs []error
	for names, program := range legacyTables {
		errs = append(errs, p.legacyOf(action, names, program))
	}
	return errors.Join(errs...)
}

func (p Passage) legacyOf(action, names, program string) error {
	tables, err := os.ReadFile(names)
	if err != nil || !strings.Contains(string(tables), "filter") {
		return nil
	}
	program, err = exec.LookPath(program)
	if err != nil {
		return nil // the tables were made by something that is not here to be asked
	}
	list, err := exec.Command(program, "-w", "-S", "FORWARD").Output()
	if err != nil {
		return fmt.Errorf("listing iptables rules: %w", err)
	}
	there := strings.Contains(string(list), p.Bridge+" ")
	if action == "-I" && (there || !strings.Contains(string(list), "-P FORWARD DROP")) || action == "-D" && !there {
		return nil
	}
	matches := [][]string{
		{"-i", p.Bridge},
		{"-o", p.Bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"},
	}
	if p.Published {
		matches = append(matches, []string{"-o", p.Bridge, "-m", "conntrack", "--ctstate", "DNAT"})
	}
	for _, match := range matches {
		args := append([]string{"-w", action, "FORWARD"}, match...)
		if out, err := exec.Command(program, append(args, "-j", "ACCEPT")...).CombinedOutput(); err != nil {
			return fmt.Errorf("changing iptables rules: %w: %s", err, out)
		}
	}
	return nil
}

// The expressions of a rule, as nft(8) would make them.

func cmpOp(equal bool) expr.CmpOp {
	if equal {
		return expr.CmpOpEq
	}
	return expr.CmpOpNeq
}

func ifName(key expr.MetaKey, name string, equal bool) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: cmpOp(equal), Register: 1, Data: padded},
	}
}

func inIf(name string, equal bool) []expr.Any  { return ifName(expr.MetaKeyIIFNAME, name, equal) }
func outIf(name string, equal bool) []expr.Any { return ifName(expr.MetaKeyOIFNAME, name, equal) }

// source matches packets whose source address is, or is not, in p.
func source(p netip.Prefix, equal bool) []expr.Any {
	mask := ipNet(p).Mask
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: cmpOp(equal), Register: 1, Data: p.Addr().AsSlice()},
	}
}

func destination(a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()},
	}
}

func l4proto(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

func port(proto byte, n uint16) []expr.Any {
	return append(l4proto(proto),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(n)},
	)
}

func redirect(to uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(to)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}

func established() []expr.Any {
	mask := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// destinationNAT matches packets of connections whose destination has been replaced.
func destinationNAT() []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dnat), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }
