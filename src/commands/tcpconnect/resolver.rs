// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of addresses, asked of the system's resolver (`/etc/hosts`, DNS) by threads that nothing waits for.

use std::collections::HashMap;
use std::ffi::CStr;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{SockaddrIn, SockaddrIn6, SockaddrLike};

/// A name server that does not answer holds up one thread for some seconds: others go on.
const THREADS: usize = 4;
/// Addresses remembered, those without a name included.
const CACHE: usize = 10_240;
/// Addresses being asked for: more at once are not asked for.
const MAX_IN_FLIGHT: usize = 1024;
/// How long an answer is believed.
const CACHE_TTL: Duration = Duration::from_secs(300);

/// What is known of an address.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Its name: letters, digits, `.`, `-` and `_` only.
    Name(&'a str),
    /// It has none, or too many are being asked for.
    Nameless,
    /// It is being asked for.
    Waiting,
}

struct Known {
    /// `None`: being asked for.
    answer: Option<Option<String>>,
    since: Instant,
}

/// An address, and the name that it has, if it has one.
type Found = (IpAddr, Option<String>);

/// A cache in front of threads that ask.
pub struct Resolver {
    known: HashMap<IpAddr, Known>,
    under_way: usize,
    ask: Option<Sender<IpAddr>>,
    answers: (Sender<Found>, Receiver<Found>),
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            under_way: 0,
            ask: None,
            answers: channel(),
        }
    }
}

impl Resolver {
    /// The name of an address, if it is known by now; otherwise has it asked for. Never waits.
    pub fn name(&mut self, addr: IpAddr) -> Answer<'_> {
        let now = Instant::now();
        let stale = |known: &Known| known.answer.is_some() && now - known.since > CACHE_TTL;
        if self.known.get(&addr).is_none_or(stale) && !self.request(addr, now) {
            return Answer::Nameless;
        }
        match self
            .known
            .get(&addr)
            .and_then(|known| known.answer.as_ref())
        {
            Some(Some(name)) => Answer::Name(name),
            Some(None) => Answer::Nameless,
            None => Answer::Waiting,
        }
    }

    /// Takes the answers that have arrived.
    pub fn collect(&mut self) {
        while let Ok((addr, name)) = self.answers.1.try_recv() {
            self.under_way -= 1;
            let (answer, since) = (Some(name), Instant::now());
            self.known.insert(addr, Known { answer, since });
        }
    }

    fn request(&mut self, addr: IpAddr, since: Instant) -> bool {
        if self.under_way >= MAX_IN_FLIGHT {
            return false;
        }
        if self.known.len() >= CACHE {
            self.known.retain(|_, known| known.answer.is_none());
        }
        // The threads begin with the first question: after privileges were dropped, which is done per thread.
        let answers = &self.answers.0;
        let ask = self.ask.get_or_insert_with(|| start(answers));
        if ask.send(addr).is_err() {
            return false;
        }
        self.under_way += 1;
        let answer = None;
        self.known.insert(addr, Known { answer, since });
        true
    }
}

/// A static build asks `/etc/hosts` and DNS alone, whatever `/etc/nsswitch.conf` says: glibc's other sources are shared
/// objects, which fit only the glibc that they were built for.
#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
fn without_plugins() {
    unsafe extern "C" {
        /// glibc, `nss/nsswitch.h`: 0, or -1 with errno.
        fn __nss_configure_lookup(
            database: *const libc::c_char,
            sources: *const libc::c_char,
        ) -> libc::c_int;
    }
    // SAFETY: two strings that live as long as the process; no other thread asks yet.
    unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
}
#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
fn without_plugins() {}

fn start(answers: &Sender<Found>) -> Sender<IpAddr> {
    without_plugins();
    let (ask, questions) = channel::<IpAddr>();
    let questions = Arc::new(Mutex::new(questions));
    for _ in 0..THREADS {
        let (questions, answers) = (questions.clone(), answers.clone());
        // Without a thread the others answer; without any, rows go without names.
        let _ = thread::Builder::new().spawn(move || {
            loop {
                let next = questions.lock().map(|questions| questions.recv());
                let Ok(Ok(addr)) = next else { return };
                if answers.send((addr, lookup(addr))).is_err() {
                    return;
                }
            }
        });
    }
    ask
}

/// Blocks until the system's resolver answers or gives up.
fn lookup(addr: IpAddr) -> Option<String> {
    let (v4, v6);
    let (ptr, len) = match addr {
        IpAddr::V4(addr) => {
            v4 = SockaddrIn::from(std::net::SocketAddrV4::new(addr, 0));
            (v4.as_ptr(), v4.len())
        }
        IpAddr::V6(addr) => {
            v6 = SockaddrIn6::from(std::net::SocketAddrV6::new(addr, 0, 0, 0));
            (v6.as_ptr(), v6.len())
        }
    };
    let mut name = [0u8; 256];
    // SAFETY: the address and the buffer live through the call, and both lengths are theirs.
    let failed = unsafe {
        libc::getnameinfo(
            ptr,
            len,
            name.as_mut_ptr().cast(),
            name.len() as _,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    let name = CStr::from_bytes_until_nul(&name).ok()?.to_bytes();
    (failed == 0 && !name.is_empty()).then(|| harmless(name))
}

/// The owner of an address chooses its name, so only characters of host names reach a terminal.
fn harmless(name: &[u8]) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    // A cell that begins with a dash would be a spreadsheet's formula; no host name does.
    let keep = |at: usize, b: u8| keep(b) && (at != 0 || b != b'-');
    let chars = name.iter().enumerate();
    chars
        .map(|(at, &b)| if keep(at, b) { char::from(b) } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_arrives_later_and_is_cached() {
        let mut resolver = Resolver::default();
        let localhost = "127.0.0.1".parse().unwrap();
        assert_eq!(resolver.name(localhost), Answer::Waiting);
        let deadline = Instant::now() + Duration::from_secs(30);
        while resolver.name(localhost) == Answer::Waiting && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
            resolver.collect();
        }
        assert!(matches!(resolver.name(localhost), Answer::Name(name) if name.contains("local")));
    }

    #[test]
    fn address_cache_is_bounded() {
        let mut resolver = Resolver::default();
        // Nobody takes these questions.
        let (ask, _questions) = channel();
        resolver.ask = Some(ask);
        for n in 0..MAX_IN_FLIGHT as u32 {
            assert_eq!(resolver.name(IpAddr::V4(n.into())), Answer::Waiting);
        }
        let one_more = IpAddr::V4((MAX_IN_FLIGHT as u32).into());
        assert_eq!(resolver.name(one_more), Answer::Nameless);
        for n in 0..MAX_IN_FLIGHT as u32 {
            resolver
                .answers
                .0
                .send((IpAddr::V4(n.into()), None))
                .unwrap();
        }
        resolver.collect();
        assert_eq!(resolver.name(IpAddr::V4(0.into())), Answer::Nameless);
        assert_eq!(resolver.name(one_more), Answer::Waiting);
    }

    #[test]
    fn names_cannot_emit_terminal_escapes() {
        assert_eq!(harmless(b"a-1.example_x"), "a-1.example_x");
        assert_eq!(harmless(b"\x1b[31m,\"\xff"), "??31m???");
        assert_eq!(harmless(b"-1-1"), "?1-1");
    }
}
