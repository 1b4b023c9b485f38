package binfmt

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
)

// A machine is how to exit with 0 on an architecture.
type machine struct {
	number elf.Machine
	order  binary.ByteOrder
	bits   int
	flags  uint32
	code   string // hex, as it lies in memory
}

// machines are by the names of Go and OCI. Each program loads the number of exit and the status, and calls the kernel.
var machines = map[string]machine{
	"amd64":    {elf.EM_X86_64, binary.LittleEndian, 64, 0, "31ff" + "b83c000000" + "0f05"},              // xor edi,edi; mov eax,60; syscall
	"386":      {elf.EM_386, binary.LittleEndian, 32, 0, "31db" + "b801000000" + "cd80"},                 // xor ebx,ebx; mov eax,1; int 0x80
	"arm64":    {elf.EM_AARCH64, binary.LittleEndian, 64, 0, "000080d2" + "a80b80d2" + "010000d4"},       // mov x0,#0; mov x8,#93; svc #0
	"arm":      {elf.EM_ARM, binary.LittleEndian, 32, 0x5000000, "0000a0e3" + "0170a0e3" + "000000ef"},   // mov r0,#0; mov r7,#1; svc #0
	"riscv64":  {elf.EM_RISCV, binary.LittleEndian, 64, 0x5, "13050000" + "9308d005" + "73000000"},       // li a0,0; li a7,93; ecall
	"ppc64le":  {elf.EM_PPC64, binary.LittleEndian, 64, 2, "01000038" + "00006038" + "02000044"},         // li r0,1; li r3,0; sc
	"ppc64":    {elf.EM_PPC64, binary.BigEndian, 64, 2, "38000001" + "38600000" + "44000002"},            // the same
	"s390x":    {elf.EM_S390, binary.BigEndian, 64, 0, "a7290000" + "0a01"},                              // lghi r2,0; svc 1
	"mips64le": {elf.EM_MIPS, binary.LittleEndian, 64, 0x80000007, "c2130224" + "00000424" + "0c000000"}, // li v0,5058; li a0,0; syscall
	"mips64":   {elf.EM_MIPS, binary.BigEndian, 64, 0x80000007, "240213c2" + "24040000" + "0000000c"},    // the same
	"loong64":  {elf.EM_LOONGARCH, binary.LittleEndian, 64, 0x43, "04008002" + "0b748102" + "00002b00"},  // li.w a0,0; li.w a7,93; syscall 0
}

// Architectures returns the architectures that there are programs for, sorted.
func Architectures() []string { return slices.Sorted(maps.Keys(machines)) }

// loadAddress is where programs are loaded.
const loadAddress = 0x400000

// Program returns a static ELF executable for an architecture that exits with 0, or nil for one that is not known.
func Program(arch string) []byte {
	m, ok := machines[arch]
	if !ok {
		return nil
	}
	code, err := hex.DecodeString(m.code)
	if err != nil {
		panic(err) // a constant
	}
	ident := [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	if m.order == binary.BigEndian {
		ident[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	}
	var hdr, prog any
	if m.bits == 64 {
		const head = 64 + 56
		size := uint64(head + len(code))
		hdr = &elf.Header64{
			Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(m.number), Version: 1, Entry: loadAddress + head,
			Phoff: 64, Flags: m.flags, Ehsize: 64, Phentsize: 56, Phnum: 1,
		}
		prog = &elf.Prog64{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: loadAddress, Paddr: loadAddress,
			Filesz: size, Memsz: size, Align: 0x10000,
		}
	} else {
		const head = 52 + 32
		ident[elf.EI_CLASS] = byte(elf.ELFCLASS32)
		size := uint32(head + len(code))
		hdr = &elf.Header32{
			Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(m.number), Version: 1, Entry: loadAddress + head,
			Phoff: 52, Flags: m.flags, Ehsize: 52, Phentsize: 32, Phnum: 1,
		}
		prog = &elf.Prog32{
			Type: uint32(elf.PT_LOAD), Vaddr: loadAddress, Paddr: loadAddress, Filesz: size, Memsz: size,
			Flags: uint32(elf.PF_R | elf.PF_X), Align: 0x10000,
		}
	}
	var out []byte
	for _, v := range []any{hdr, prog, code} {
		if out, err = binary.Append(out, m.order, v); err != nil {
			panic(err) // they have fixed sizes
		}
	}
	return out
}
