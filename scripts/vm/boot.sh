# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by kernels.sh: a guest in QEMU, emulated, so that it needs neither KVM nor root.
#
# What an emulated guest needs to be steady, each found by trying:
# - a clock that counts its instructions, 2 ns each (icount), not the host's time: a busy host makes the guest slow, but
#   what happens in which order, and how long after another, stays; and what it sleeps takes no time (sleep=off).
#   With such a clock 5.10 and 6.1 do not start a second CPU, so there is one (tried for amd64; arm64 has the host's time
#   and two);
# - one host thread (thread=single): with more, QEMU 7.2 loses 7.x kernels while they patch their code;
# - no serial port on IRQ 5, whose level-triggered line stalls for seconds: the third is on 6;
# - tsc=reliable, or the kernel takes the HPET as its clock, which is slow to read;
# - no fast copies by REP MOVSB and STOSB (-erms; clearcpuid=112 is rep_good), by kernel and C library: each byte, or
#   word, of them costs as much as an instruction, and clearing and copying pages was a third of what starting a command
#   took;
# - for arm64 pauth-impdef=on, or the kernel's signed pointers cost more than all else; and a processor that has pages of
#   16 KiB, as `max` does and cortex-a72 does not.
# shellcheck shell=bash

ARGUMENTS="loglevel=4 panic=-1 oops=panic mitigations=off audit=0 selinux=0 apparmor=0 random.trust_cpu=on"

# parameter_of NAME: what the guest's kernel or init is told, so that it runs in the way that the name says.
parameter_of() {
	case $(way_of "$1") in
	nobtf) echo nobtf ;;
	integrity | confidentiality) echo "lockdown=$(way_of "$1")" ;;
	esac
}

# machine ARCH: sets MACHINE, what is emulated, with the console and the ports for the tests' words and for the result.
machine() {
	case $1 in
	amd64)
		MACHINE=(qemu-system-x86_64 -machine "q35,sata=off,smbus=off,usb=off,vmport=off,graphics=off" -cpu "max,-erms" -smp 1 -icount "shift=1,sleep=off"
			-device "isa-serial,index=0,chardev=c0"
			-device "isa-serial,index=1,chardev=c1"
			-device "isa-serial,index=2,chardev=c2,iobase=0x3e8,irq=6")
		APPEND="console=ttyS0 ports=ttyS1,ttyS2 no_timer_check tsc=reliable clearcpuid=112"
		;;
	arm64)
		MACHINE=(qemu-system-aarch64 -machine virt -cpu "max,pauth-impdef=on" -smp 2 -serial chardev:c0 -device virtio-serial-pci
			-device "virtserialport,chardev=c1" -device "virtserialport,chardev=c2")
		APPEND="console=ttyAMA0 ports=vport0p1,vport0p2"
		;;
	esac
}

# boot ARCH KERNEL_DIR IMAGE OUT ARGUMENTS...: runs a guest to its end. OUT then has `console`, `tests` (what the tests
# said) and, unless the guest died, what init left: `status`, `release`, `dmesg`, `seen`.
boot() {
	local kernel=$2 image=$3 out=$4 try MACHINE APPEND
	machine "$1"
	shift 4
	for try in 1 2 3; do
		timeout "${TCPTOOLS_VM_LIMIT:-3600}" "${MACHINE[@]}" \
			-accel tcg,thread=single -m "${TCPTOOLS_VM_MEMORY:-1024}" \
			-nodefaults -no-user-config -display none -no-reboot \
			-kernel "$kernel/vmlinuz" -initrd "$image" -append "$APPEND $ARGUMENTS $*" \
			-chardev "file,id=c0,path=$out/console" \
			-chardev "file,id=c1,path=$out/tests" \
			-chardev "file,id=c2,path=$out/result.tar" \
			</dev/null >"$out/qemu" 2>&1 || true
		# Only a guest that never came to its tests is started again.
		grep -aq 'guest: ready' "$out/console" && break
		echo "boot $try failed" >&2
	done
	tar -x -C "$out" -f "$out/result.tar" 2>/dev/null || true
	rm -f "$out/result.tar"
}
