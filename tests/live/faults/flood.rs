// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traffic that goes on in a namespace until it is told to end.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    net::Netns,
    wait::{self, PATIENCE},
};

/// One session after the other over loopback, of either family, with a request and an answer, and between two of them
/// an open that is refused.
pub struct Flood {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    sessions: AtomicU64,
}

impl Flood {
    pub fn new(ns: &Arc<Netns>) -> Self {
        let shared = Arc::<Shared>::default();
        let (ns, told) = (Arc::clone(ns), Arc::clone(&shared));
        let thread = thread::spawn(move || ns.inside(|| rage(&told)));
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Waits for so many more sessions.
    pub fn more(&self, count: u64) -> Result<()> {
        let count = self.sessions() + count;
        wait::until("more sessions", PATIENCE, || {
            let failed = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            ensure!(!failed, "the traffic has ended");
            Ok((self.sessions() >= count).then_some(()))
        })
    }

    pub fn sessions(&self) -> u64 {
        self.shared.sessions.load(Ordering::Relaxed)
    }

    /// Ends it; how many sessions there were.
    pub fn end(mut self) -> Result<u64> {
        self.shared.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it runs")?;
        thread.join().expect("no panic")?;
        Ok(self.sessions())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

fn rage(shared: &Shared) -> Result<()> {
    let listeners = ["127.0.0.1:0", "[::1]:0"].map(TcpListener::bind);
    let listeners = listeners.into_iter().collect::<Result<Vec<_>, _>>()?;
    // Nobody listens where a socket was bound for a moment.
    let refuses = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    for listener in listeners.iter().cycle() {
        if shared.over.load(Ordering::Relaxed) {
            return Ok(());
        }
        session(listener, refuses)?;
        shared.sessions.fetch_add(1, Ordering::Relaxed);
        // There are others on this machine.
        thread::sleep(Duration::from_micros(300));
    }
    Ok(())
}

fn session(listener: &TcpListener, refuses: SocketAddr) -> Result<()> {
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(&[b'q'; 100])?;
    server.read_exact(&mut [0; 100])?;
    server.write_all(&[b'a'; 1000])?;
    client.read_exact(&mut [0; 1000])?;
    ensure!(TcpStream::connect(refuses).is_err(), "somebody listens");
    Ok(())
}
