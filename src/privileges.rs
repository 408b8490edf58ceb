// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was needed to attach is not needed to read: a fault in the reader shall find no privilege to abuse.

use caps::{CapSet, Capability, CapsHashSet};

/// Drops this thread's capabilities; those in `permitted` may be taken up again. Only where bpf(2) refuses everything
/// without them (kernels before 5.19, unless unprivileged use is allowed), as `refused` finds out when none is effective
/// any more, CAP_BPF stays, for what reads maps or iterators as it goes.
pub(crate) fn drop_but(permitted: &[Capability], refused: impl FnOnce() -> bool) {
    // Having fewer already is fine, here and below.
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
