// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was needed to attach is not needed to read: a fault in the reader shall find no capability to abuse, and no way
//! to get one. The user stays who it is: root still owns root's files.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

/// Drops all of this thread, for one that outlives those of the main thread and runs no program: capabilities are each
/// thread's own, and `execve` of root's would give back what its bounding set has.
pub(crate) fn drop_all() {
    drop_but(&[], || false);
}

/// Drops this thread's capabilities; those in `permitted` may be taken up again. Only where bpf(2) refuses everything
/// without them (kernels before 5.19, unless unprivileged use is allowed), as `refused` finds out when none is effective
/// any more, CAP_BPF stays, for what reads maps or iterators as it goes.
pub(crate) fn drop_but(permitted: &[Capability], refused: impl FnOnce() -> bool) {
    // Having fewer already is fine, here and below. Dropping the bounding set takes CAP_SETPCAP, and so goes first.
    let _ = caps::clear(None, CapSet::Bounding);
    let _ = prctl::set_no_new_privs();
    let _ = caps::clear(None, CapSet::Effective);
    let may = |&cap: &Capability| caps::has_cap(None, CapSet::Permitted, cap).unwrap_or(false);
    let kept = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN];
    let keep = match refused() {
        true => kept.into_iter().find(may),
        false => None,
    };
    let keep: CapsHashSet = keep.into_iter().collect();
    let permitted = permitted.iter().copied().filter(may);
    let _ = caps::set(
        None,
        CapSet::Permitted,
        &permitted.chain(keep.iter().copied()).collect(),
    );
    let _ = caps::set(None, CapSet::Effective, &keep);
    let _ = caps::clear(None, CapSet::Inheritable);
}
