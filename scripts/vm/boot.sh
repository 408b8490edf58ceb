# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by kernels.sh: a guest in QEMU, emulated, so that it needs neither KVM nor root.
#
# What an emulated guest needs to be steady, each found by trying:
# - both CPUs on one host thread (thread=single): with more, QEMU 7.2 loses 7.x kernels while they patch their code;
# - no serial port on IRQ 5, whose level-triggered line stalls for seconds: the third is on 6;
# - tsc=reliable, or the kernel takes the HPET as its clock, which is slow to read.
# shellcheck shell=bash

# boot KERNEL_DIR IMAGE OUT ARGUMENTS...: runs a guest to its end. OUT then has `console`, `tests` (what the tests said)
# and, unless the guest died, what init left: `status`, `release`, `dmesg`, `seen`.
boot() {
	local kernel=$1 image=$2 out=$3 try
	shift 3
	for try in 1 2 3; do
		timeout "${TCPTOOLS_VM_LIMIT:-1200}" qemu-system-x86_64 \
			-machine q35,sata=off,smbus=off,usb=off,vmport=off,graphics=off \
			-accel tcg,thread=single -cpu max -smp 2 -m 1024 \
			-nodefaults -no-user-config -display none -no-reboot \
			-kernel "$kernel/vmlinuz" -initrd "$image" \
			-append "console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off no_timer_check tsc=reliable audit=0 selinux=0 apparmor=0 random.trust_cpu=on $*" \
			-chardev "file,id=c0,path=$out/console" -device isa-serial,index=0,chardev=c0 \
			-chardev "file,id=c1,path=$out/tests" -device isa-serial,index=1,chardev=c1 \
			-chardev "file,id=c2,path=$out/result.tar" -device isa-serial,index=2,chardev=c2,iobase=0x3e8,irq=6 \
			</dev/null >"$out/qemu" 2>&1 || true
		# Only a guest that never came to its tests is started again.
		grep -aq 'guest: ready' "$out/console" && break
		echo "boot $try failed" >&2
	done
	tar -x -C "$out" -f "$out/result.tar" 2>/dev/null || true
	rm -f "$out/result.tar"
}
