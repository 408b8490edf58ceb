// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attaching needs privileges, reading does not: a fault in the reader must find neither a capability nor root's files to
//! abuse, and no way to get them (docs/principles.md 6).

use std::env;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, getegid, getgid, getuid};

/// The user and the group of whom the kernel has no number either (DEFAULT_OVERFLOWUID of include/linux/highuid.h).
const NOBODY: u32 = 65534;

/// What it takes to write or remove a file at the end of a run: the most comes last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rights {
    /// There is no file.
    #[default]
    Nothing,
    /// Those of [`user`].
    User,
    /// Root's, without any capability.
    Root,
    /// Root's, with CAP_DAC_OVERRIDE.
    Override,
}

/// Whom a command goes on as: root as who called sudo, or else as nobody; others as who started it.
pub(crate) fn user() -> (Uid, Gid) {
    if !getuid().is_root() {
        return (getuid(), getgid());
    }
    let ids = sudo_id("SUDO_UID").zip(sudo_id("SUDO_GID"));
    let (uid, gid) = ids.unwrap_or((NOBODY, NOBODY));
    (uid.into(), gid.into())
}

/// What sudo says of its caller in this variable; not root, and not what means "none" in system calls.
pub(crate) fn sudo_id(variable: &str) -> Option<u32> {
    let id = env::var(variable).ok()?.parse().ok()?;
    (1..u32::MAX).contains(&id).then_some(id)
}

/// Drops all of this thread, for one that outlives those of the main thread and runs no program: user and capabilities
/// are each thread's own.
pub(crate) fn drop_all() {
    drop_but(Rights::Nothing, || false);
}

/// Makes this thread [`user`]'s, and drops its capabilities, but for what `rights` takes. Only where bpf(2) refuses
/// everything without them (kernels before 5.19, unless unprivileged use is allowed), as `refused` finds out when none is
/// effective any more, CAP_BPF stays, for what reads maps or iterators as it goes.
pub(crate) fn drop_but(rights: Rights, refused: impl FnOnce() -> bool) {
    // Having fewer already is fine, here and below. Dropping the bounding set takes CAP_SETPCAP, and so goes first.
    let _ = caps::clear(None, CapSet::Bounding);
    let _ = prctl::set_no_new_privs();
    let left = leave_root(rights >= Rights::Root).is_ok();
    let _ = caps::clear(None, CapSet::Effective);
    let may = |&cap: &Capability| caps::has_cap(None, CapSet::Permitted, cap).unwrap_or(false);
    let kept = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN];
    let keep = match refused() {
        true => kept.into_iter().find(may),
        false => None,
    };
    let keep: CapsHashSet = keep.into_iter().collect();
    // Root that stays root takes it to write where the user might.
    let overrides = rights == Rights::Override || rights == Rights::User && !left;
    let permitted = overrides.then_some(Capability::CAP_DAC_OVERRIDE);
    let _ = caps::set(
        None,
        CapSet::Permitted,
        &permitted
            .filter(may)
            .into_iter()
            .chain(keep.clone())
            .collect(),
    );
    let _ = caps::set(None, CapSet::Effective, &keep);
    // With it the ambient set goes.
    let _ = caps::clear(None, CapSet::Inheritable);
    // The user must not trace what root has made, whatever /proc/sys/fs/suid_dumpable says.
    let _ = prctl::set_dumpable(false);
}

/// Makes this thread [`user`]'s; `saved`: root can be taken up again, by setfsuid(2). The permitted capabilities stay.
///
/// # Errors
/// When that is not allowed: without CAP_SETUID, or in a user namespace that has no such user. Nothing changes then.
fn leave_root(saved: bool) -> Result<(), Errno> {
    let (uid, gid) = user();
    let (old_uid, old_gid) = (getuid(), getegid());
    let [saved_uid, saved_gid] = match saved {
        true => [old_uid.as_raw(), old_gid.as_raw()],
        false => [uid.as_raw(), gid.as_raw()],
    };
    prctl::set_keepcaps(true)?;
    // Another user's signals are none of the parent's, the kernel thinks, and forgets this one.
    let orphan = prctl::get_pdeathsig().ok().flatten();
    // The C library's functions change all threads, and abort where some may not.
    let ids = |number, id: u32, saved: u32| {
        // SAFETY: takes three numbers.
        Errno::result(unsafe { libc::syscall(number, id, id, saved) })
    };
    ids(libc::SYS_setresuid, uid.as_raw(), saved_uid)?;
    if old_uid.is_root() {
        let _ = caps::raise(None, CapSet::Effective, Capability::CAP_SETGID);
        // SAFETY: reads no list, as it has no members.
        unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) };
    }
    let _ = ids(libc::SYS_setresgid, gid.as_raw(), saved_gid);
    let _ = prctl::set_pdeathsig(orphan);
    let _ = prctl::set_keepcaps(false);
    Ok(())
}
