// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serves pages over HTTP: a fixed number of clients, each for a limited time, without a thread. Whoever comes when all
//! places are taken takes that of the client that has waited longest.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::collector::{Collector, Written};
use super::http::{self, Asked, MOST, Request};
use super::text::Format;

/// Clients at a time.
const CLIENTS: usize = 32;
/// How long one may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The number of the listener among the events.
const LISTENER: u64 = u64::MAX;

/// The page at `/`.
const INDEX: &str = "tcptools metrics: see /metrics\n";

/// A client.
struct Client {
    stream: TcpStream,
    asked: Vec<u8>,
    /// Its request, which waits for a look.
    wants: Option<(Format, bool)>,
    answer: Option<Answer>,
    /// When its time is over.
    until: Instant,
}

/// An answer, and how much of it is written.
struct Answer {
    head: Vec<u8>,
    body: Rc<[u8]>,
    written: usize,
}

/// What becomes of a client.
#[derive(PartialEq)]
enum Next {
    Waits,
    Ends,
}

/// A listening socket, and its clients.
pub(super) struct Server {
    epoll: Epoll,
    listener: TcpListener,
    address: SocketAddr,
    clients: [Option<Client>; CLIENTS],
    /// Pages were made since the last client left.
    served: bool,
}

impl Server {
    /// # Errors
    /// A sentence: the address cannot be had.
    pub(super) fn bind(address: SocketAddr) -> Result<Self> {
        let cannot = |error: &io::Error| {
            let why = error.raw_os_error().map(|n| Errno::from_raw(n).desc());
            anyhow!(
                "--listen: cannot listen on {address}: {}",
                why.unwrap_or("it is refused")
            )
        };
        let listener = TcpListener::bind(address).map_err(|error| cannot(&error))?;
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("no descriptor is left")?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, LISTENER);
        epoll
            .add(&listener, event)
            .context("cannot wait for clients")?;
        let address = listener.local_addr()?;
        Ok(Self {
            epoll,
            listener,
            address,
            clients: [const { None }; CLIENTS],
            served: false,
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Can be read when there is something to do.
    pub(super) fn wakes(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// When a client's time is over next, or there is a look that one waits for.
    pub(super) fn due(&self, rests_until: Option<Instant>) -> Option<Instant> {
        let clients = self.clients.iter().flatten();
        let over = clients.clone().map(|client| client.until);
        let look = clients.filter(|client| client.wants.is_some());
        let look = look.map(|_| rests_until.unwrap_or_else(Instant::now));
        over.chain(look).min()
    }

    /// Does what can be done without waiting. Returns whether the last client has just left, and its page with it.
    pub(super) fn serve(&mut self, collector: &mut Collector) -> bool {
        let mut events = [EpollEvent::empty(); CLIENTS + 1];
        let ready = self
            .epoll
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or(0);
        for event in events.iter().take(ready) {
            match event.data() {
                LISTENER => self.accept(),
                at => self.go_on(at as usize),
            }
        }
        let now = Instant::now();
        for client in &mut self.clients {
            if client.as_ref().is_some_and(|client| client.until <= now) {
                *client = None;
            }
        }
        let mut all = self.clients.iter().flatten();
        if all.any(|client| client.wants.is_some()) && collector.rests_until().is_none() {
            self.served = true;
            self.answer(collector.page());
        }
        let left = self.served && self.clients.iter().all(Option::is_none);
        self.served &= !left;
        left
    }

    /// All who wait for a look.
    fn answer(&mut self, mut page: Result<Written>) {
        for at in 0..CLIENTS {
            let Some(Some(client)) = self.clients.get_mut(at) else {
                continue;
            };
            let Some((format, head)) = client.wants.take() else {
                continue;
            };
            client.answer = Some(match &mut page {
                Ok(page) => Answer::new("200 OK", format.content_type(), page.format(format), head),
                Err(error) => {
                    let body = text(&format!("{error:#}\n"));
                    Answer::new("500 Internal Server Error", PLAIN, body, head)
                }
            });
            self.go_on(at);
        }
    }

    fn accept(&mut self) {
        // Not for ever, while clients of before wait.
        for _ in 0..CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            let at = self.place();
            let event = EpollEvent::new(EpollFlags::EPOLLIN, at as u64);
            let ready = stream.set_nonblocking(true).is_ok();
            if !ready || self.epoll.add(&stream, event).is_err() {
                continue;
            }
            let client = Client {
                stream,
                asked: Vec::new(),
                wants: None,
                answer: None,
                until: Instant::now() + PATIENCE,
            };
            if let Some(place) = self.clients.get_mut(at) {
                *place = Some(client);
            }
        }
    }

    /// A free place, or that of the client who came first.
    fn place(&self) -> usize {
        let taken =
            |(_, client): &(usize, &Option<Client>)| client.as_ref().map(|client| client.until);
        let oldest = self.clients.iter().enumerate().min_by_key(taken);
        oldest.map_or(0, |(at, _)| at)
    }

    fn go_on(&mut self, at: usize) {
        let Some(place) = self.clients.get_mut(at) else {
            return;
        };
        let Some(client) = place else {
            return;
        };
        let next = client.go_on();
        // What a client says while it waits is not read: it would be ready again and again.
        let events = match (&client.answer, &client.wants) {
            (Some(_), _) => EpollFlags::EPOLLOUT,
            (None, Some(_)) => EpollFlags::empty(),
            (None, None) => EpollFlags::EPOLLIN,
        };
        let mut event = EpollEvent::new(events, at as u64);
        if next == Next::Ends || self.epoll.modify(&client.stream, &mut event).is_err() {
            *place = None;
        }
    }
}

impl Client {
    fn go_on(&mut self) -> Next {
        if self.wants.is_some() {
            // It has gone: an error or a hangup is told always.
            return Next::Ends;
        }
        if self.answer.is_none() {
            let Some(Request { asked, head }) = self.ask() else {
                return Next::Ends;
            };
            match asked {
                Asked::More => return Next::Waits,
                Asked::Metrics(format) => {
                    self.wants = Some((format, head));
                    return Next::Waits;
                }
                Asked::Index => self.answer = Some(Answer::new("200 OK", PLAIN, text(INDEX), head)),
                Asked::Wrong(status) => {
                    let line = status.line();
                    self.answer = Some(Answer::new(line, PLAIN, text(&format!("{line}\n")), head));
                }
            }
        }
        match &mut self.answer {
            Some(answer) => answer.write(&mut self.stream),
            None => Next::Ends,
        }
    }

    /// What it wants, as far as it has said; `None`: it has gone.
    fn ask(&mut self) -> Option<Request> {
        let mut chunk = [0; 2048];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.asked.extend_from_slice(chunk.get(..n)?),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
            if self.asked.len() >= MOST {
                break;
            }
        }
        Some(http::read(&self.asked))
    }
}

impl Answer {
    fn new(status: &str, kind: &str, body: Rc<[u8]>, only_head: bool) -> Self {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
             Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n",
            body.len()
        );
        Self {
            head: head.into_bytes(),
            body: if only_head { Rc::default() } else { body },
            written: 0,
        }
    }

    fn write(&mut self, to: &mut TcpStream) -> Next {
        loop {
            let in_body = self.written.saturating_sub(self.head.len());
            let rest = match self.head.get(self.written..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => self.body.get(in_body..).unwrap_or_default(),
            };
            if rest.is_empty() {
                // What it sends besides would make the kernel reset the connection, and lose the answer.
                let _ = to.shutdown(std::net::Shutdown::Write);
                let _ = to.read(&mut [0; MOST]);
                return Next::Ends;
            }
            match to.write(rest) {
                Ok(0) => return Next::Ends,
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Waits,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Next::Ends,
            }
        }
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn text(text: &str) -> Rc<[u8]> {
    text.as_bytes().into()
}
