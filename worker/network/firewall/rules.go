package firewall

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker/network/ipam"
)

// Registers of four bytes; four of them are one of sixteen.
const (
	reg16 = 1 // the first of sixteen
	reg32 = 8 // the first of four
)

// rules adds the chains and rules.
func (t *Table) rules() {
	chain := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) func(...[]expr.Any) {
		ch := t.conn.AddChain(&nftables.Chain{Name: name, Table: t.t, Type: typ, Hooknum: hook, Priority: prio})
		return func(parts ...[]expr.Any) {
			var exprs []expr.Any
			for _, p := range parts {
				exprs = append(exprs, p...)
			}
			t.conn.AddRule(&nftables.Rule{Table: t.t, Chain: ch, Exprs: exprs})
		}
	}
	from, notFrom, to, notTo := t.inBridge(bridges, true), t.inBridge(bridges, false), t.outBridge(bridges, true), t.outBridge(bridges, false)
	loopback := netip.MustParsePrefix("127.0.0.0/8")

	rule := chain("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	rule(v4(), from, within(v4dst, loopback), drop())
	for _, f := range []addrField{v4dst, v6dst} {
		rule(notFrom, inIf("lo", false), f.family(), t.in(f, subnets), drop())
	}

	t.publish(chain)

	rule = chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	rule(ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
	rule(t.pair(talking), accept())
	rule(t.inBridge(internal, true), drop())
	rule(t.outBridge(internal, true), drop())
	rule(to, ctStatusDNAT(), accept())
	rule(to, drop())

	rule = chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	masquerade := []expr.Any{&expr.Masq{}}
	rule(v4(), within(v4src, loopback), to, masquerade)
	for _, f := range []addrField{v4src, v6src} {
		rule(f.family(), t.in(f, outward), notTo, masquerade)
		// A container that uses a published port: the answer has to come back through the host.
		rule(f.family(), t.in(f, subnets), to, ctStatusDNAT(), masquerade)
	}
}

// publish adds the chains that lead published ports to containers.
func (t *Table) publish(chain func(string, nftables.ChainType, *nftables.ChainHook, *nftables.ChainPriority) func(...[]expr.Any)) {
	rule := chain("published", "", nil, nil)
	for _, f := range []addrField{v4dst, v6dst} {
		rule(f.family(), t.toContainer(f, true))
		rule(f.family(), t.toContainer(f, false))
	}
	local, jump := daddrLocal(), []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "published"}}
	rule = chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	rule(v4(), within(v4dst, netip.MustParsePrefix("127.0.0.0/8")), accept())
	rule(local, jump)
	rule = chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	// There is no way from ::1 to another interface.
	rule(v6(), within(v6dst, netip.MustParsePrefix("::1/128")), accept())
	rule(local, jump)
}

// toContainer looks a packet's protocol, address if exact, and port up, and sends it to what is found.
func (t *Table) toContainer(f addrField, exact bool) []expr.Any {
	set, port := t.sets[anywhere+f.suffix], uint32(reg32+1)
	out := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg32}}
	if exact {
		set = t.sets[ports+f.suffix]
		out = append(out, f.load(reg32+1))
		port += f.len / 4
	}
	// The data of the map: an address and then a port, which is in the register after it.
	return append(
		out,
		&expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg32, DestRegister: reg32, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: f.proto, RegAddrMin: reg32, RegAddrMax: reg32,
			RegProtoMin: reg32 + f.len/4, RegProtoMax: reg32 + f.len/4, Specified: true,
		},
	)
}

// An addrField is an address in the header of a packet.
type addrField struct {
	proto, offset, len uint32
	suffix             string
}

var (
	v4src = addrField{unix.NFPROTO_IPV4, 12, 4, "4"}
	v4dst = addrField{unix.NFPROTO_IPV4, 16, 4, "4"}
	v6src = addrField{unix.NFPROTO_IPV6, 8, 16, "6"}
	v6dst = addrField{unix.NFPROTO_IPV6, 24, 16, "6"}
)

func (f addrField) load(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.len}
}

// family matches packets that have the field.
func (f addrField) family() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg16},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg16, Data: []byte{byte(f.proto)}},
	}
}

func v4() []expr.Any { return v4dst.family() }
func v6() []expr.Any { return v6dst.family() }

// within matches packets whose field is in p.
func within(f addrField, p netip.Prefix) []expr.Any {
	mask := ipam.Last(netip.PrefixFrom(p.Addr(), p.Bits())).AsSlice()
	for i, b := range p.Masked().Addr().AsSlice() {
		mask[i] = ^(mask[i] ^ b)
	}
	return []expr.Any{
		f.load(reg16),
		&expr.Bitwise{SourceRegister: reg16, DestRegister: reg16, Len: f.len, Mask: mask, Xor: make([]byte, f.len)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg16, Data: p.Masked().Addr().AsSlice()},
	}
}

// in matches packets whose field is in a set of subnets.
func (t *Table) in(f addrField, set string) []expr.Any {
	s := t.sets[set+f.suffix]
	return []expr.Any{f.load(reg16), &expr.Lookup{SourceRegister: reg16, SetName: s.Name, SetID: s.ID}}
}

func (t *Table) bridge(key expr.MetaKey, set string, in bool) []expr.Any {
	s := t.sets[set]
	return []expr.Any{
		&expr.Meta{Key: key, Register: reg16},
		&expr.Lookup{SourceRegister: reg16, SetName: s.Name, SetID: s.ID, Invert: !in},
	}
}

func (t *Table) inBridge(set string, in bool) []expr.Any {
	return t.bridge(expr.MetaKeyIIFNAME, set, in)
}

func (t *Table) outBridge(set string, in bool) []expr.Any {
	return t.bridge(expr.MetaKeyOIFNAME, set, in)
}

// pair matches packets that come in and go out by two interfaces of a set of pairs.
func (t *Table) pair(set string) []expr.Any {
	s := t.sets[set]
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg16},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg16 + 1},
		&expr.Lookup{SourceRegister: reg16, SetName: s.Name, SetID: s.ID},
	}
}

func ifNameBytes(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func inIf(name string, equal bool) []expr.Any {
	op := expr.CmpOpEq
	if !equal {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg16},
		&expr.Cmp{Op: op, Register: reg16, Data: ifNameBytes(name)},
	}
}

// daddrLocal matches packets to an address of the host's.
func daddrLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg16, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg16, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg16},
		&expr.Bitwise{SourceRegister: reg16, DestRegister: reg16, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg16, Data: make([]byte, 4)},
	}
}

func ctState(bits uint32) []expr.Any { return ctBits(expr.CtKeySTATE, bits) }

// ctStatusDNAT matches packets of connections whose destination has been replaced.
func ctStatusDNAT() []expr.Any { return ctBits(expr.CtKeySTATUS, 1<<5) } // IPS_DST_NAT

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// interval is a subnet as an element of a set of intervals.
func interval(p netip.Prefix) []nftables.SetElement {
	out := []nftables.SetElement{{Key: p.Masked().Addr().AsSlice()}}
	if end := ipam.Last(p).Next(); end.IsValid() {
		out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return out
}
