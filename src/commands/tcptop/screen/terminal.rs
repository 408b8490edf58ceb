// SPDX-License-Identifier: MIT OR Apache-2.0
//! The terminal as a screen: raw mode and the alternate buffer, and back on every way out.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::panic;
use std::rc::Rc;
use std::sync::{Mutex, Once, TryLockError};

use anyhow::{Context, Result};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::termios::{LocalFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

use crate::output::{message, terminal};

/// The alternate buffer, without a cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const CLEAR: &[u8] = b"\x1b[2J";
/// CAN ends a sequence that was cut off.
const LEAVE: &[u8] = b"\x18\x1b[0m\x1b[?25h\x1b[?1049l";

/// How the terminal was before; `None`: it is not a screen now.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether keys can be read and a screen can be drawn.
pub(in super::super) fn is_there() -> bool {
    stdin().is_terminal() && terminal::is_there() && !terminal::is_dumb()
}

/// Gives the terminal back as it was. Any number of times, from any thread: at an exit another one may be at it.
pub(super) fn leave() {
    if give_back() {
        message::release();
    }
}

/// Whether it was taken. Nothing here waits for a lock or for memory: a handler may call it.
fn give_back() -> bool {
    let mut before = match BEFORE.try_lock() {
        Ok(before) => before,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return false,
    };
    let Some(before) = before.take() else {
        return false;
    };
    let out = stdout();
    // A terminal that is stopped (Ctrl-S) must not stop the end.
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::from(100u8)).is_ok_and(|n| n > 0) {
        let _ = nix::unistd::write(&out, LEAVE);
    }
    let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &before);
    true
}

/// SIGQUIT: the terminal is given back, and then the process dies of it as usual.
extern "C" fn at_quit(signal: libc::c_int) {
    give_back();
    // SAFETY: takes an integer; the handler is reset by now, and the signal not blocked.
    unsafe { libc::raise(signal) };
}

extern "C" fn at_exit() {
    leave();
}

/// However the process ends, but for SIGKILL and faults of its own.
fn leave_at_the_end() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function takes nothing, does not unwind, and lives as long as the process.
        unsafe { libc::atexit(at_exit) };
        let flags = SaFlags::SA_RESETHAND | SaFlags::SA_NODEFER;
        let quit = SigAction::new(SigHandler::Handler(at_quit), flags, SigSet::empty());
        // SAFETY: the handler takes no lock that it waits for, and no memory.
        let _ = unsafe { sigaction(Signal::SIGQUIT, &quit) };
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            leave();
            usual(info);
        }));
    });
}

/// What is drawn, until it is taken.
#[derive(Clone, Default)]
struct Drawn(Rc<RefCell<Vec<u8>>>);

impl Write for Drawn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The screen. It writes nothing itself: what is to be written comes back from [`Screen::draw`].
pub(super) struct Screen {
    size: (u16, u16),
    terminal: Terminal<CrosstermBackend<Drawn>>,
    drawn: Drawn,
    /// The alternate buffer is not asked for yet.
    outside: bool,
    /// The next picture is drawn from nothing.
    blank: bool,
}

impl Screen {
    /// Not before [`Screen::enter`].
    ///
    /// # Errors
    /// Never, as it is in memory only.
    pub(super) fn new() -> Result<Self> {
        let (size, drawn) = (size(), Drawn::default());
        Ok(Self {
            size,
            terminal: sized(size, &drawn)?,
            drawn,
            outside: true,
            blank: true,
        })
    }

    /// Takes the terminal.
    ///
    /// # Errors
    /// If the terminal refuses.
    pub(super) fn enter(&mut self) -> Result<()> {
        leave_at_the_end();
        let before = tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw).context("cannot set the terminal")?;
        let mut lock = BEFORE
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // After a stop by somebody else it still is what it was.
        lock.get_or_insert(before);
        drop(lock);
        message::hold();
        (self.outside, self.blank) = (true, true);
        Ok(())
    }

    /// Whether somebody, such as the shell after a stop, has set the terminal meanwhile.
    pub(super) fn was_taken(&self) -> bool {
        tcgetattr(stdin()).is_ok_and(|now| now.local_flags.contains(LocalFlags::ICANON))
    }

    /// Follows the terminal's size; whether it has changed.
    pub(super) fn resize(&mut self) -> Result<bool> {
        let now = size();
        if now == self.size {
            return Ok(false);
        }
        self.size = now;
        self.blank = true;
        Ok(true)
    }

    /// What makes this picture of the one before.
    ///
    /// # Errors
    /// Never, as it is in memory only.
    pub(super) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if std::mem::take(&mut self.outside) {
            bytes.extend_from_slice(ENTER);
        }
        if std::mem::take(&mut self.blank) {
            self.terminal = sized(self.size, &self.drawn)?;
            // The one before has shown the cursor at its end.
            self.drawn.0.borrow_mut().clear();
            bytes.extend_from_slice(CLEAR);
        }
        self.terminal.draw(picture)?;
        bytes.append(&mut self.drawn.0.borrow_mut());
        Ok(bytes)
    }
}

/// A fixed area: nothing is asked of the terminal, which might not answer.
fn sized((columns, lines): (u16, u16), drawn: &Drawn) -> Result<Terminal<CrosstermBackend<Drawn>>> {
    let viewport = Viewport::Fixed(Rect::new(0, 0, columns, lines));
    let backend = CrosstermBackend::new(drawn.clone());
    Ok(Terminal::with_options(
        backend,
        TerminalOptions { viewport },
    )?)
}

/// Columns and lines; a terminal without a size has the usual one.
fn size() -> (u16, u16) {
    let short = |size: usize| u16::try_from(size).unwrap_or(u16::MAX);
    let size = terminal::size().map(|size| (short(size.columns), short(size.lines)));
    size.unwrap_or((80, 24))
}
