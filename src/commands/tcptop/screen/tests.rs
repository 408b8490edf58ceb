// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames of the screen, and keys.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use unicode_width::UnicodeWidthStr;

use super::super::choice::Choice;
use super::super::flag;
use super::super::sort::Sort;
use super::super::traffic::Connection;
use super::super::why::{receive, send};
use super::draw::draw;
use super::paint::Look;
use super::state::{Act, Interval, Line, State, Sums};
use crate::abi::names::state::{CLOSE_WAIT, ESTABLISHED};
use crate::abi::types::{Record, head};
use crate::aggregate::by::By;
use crate::aggregate::keys::Keys;
use crate::output::golden::{files, heads};

/// Three connections: one that moves, one of a process with a name that would draw, one that is stuck.
fn connections() -> Vec<Connection> {
    let [_, curl, server] = heads();
    let mut evil = curl;
    evil.owner.comm = *b"\x1b[2J\x1b[31m\xe2\x80\xaeevil";
    evil.flow.lport = 50_000;
    let made = |head: head, start_ns, state| {
        let one = Connection {
            interval_us: 1_000_000,
            ..Connection::default()
        };
        let mut one = one.with_head(&head);
        (one.conn.start_ns, one.conn.sock, one.conn.state) = (start_ns, start_ns, state);
        one.conn.rtt_us = 12_300;
        one.conn.min_rtt_us = 9000;
        (one.conn.snd_cwnd, one.conn.snd_mss) = (10, 1448);
        one.conn.ca_name[..5].copy_from_slice(b"cubic");
        one
    };
    let moves = Connection {
        tx: 1_250_000,
        rx: 4000,
        ..made(curl, 100, ESTABLISHED)
    };
    let draws = Connection {
        tx: 10,
        retrans: 3,
        receive: receive::UNREAD,
        why_us: 700_000,
        more: 2,
        ..made(evil, 200, CLOSE_WAIT)
    };
    let mut stuck = Connection {
        send: send::ZERO_WINDOW,
        why_us: 4_500_000,
        ..made(server, 300, ESTABLISHED)
    };
    (stuck.conn.wqueue, stuck.conn.notsent) = (65_536, 65_536);
    (stuck.conn.timer, stuck.conn.timer_us, stuck.conn.backoff) =
        (super::super::timer::PERSIST, 800_000, 3);
    stuck.conn.flags = flag::KEEPALIVE;
    vec![moves, draws, stuck]
}

fn interval(connections: Vec<Connection>) -> Interval {
    let mut sums = Sums::default();
    connections.iter().for_each(|one| sums.add(one));
    Interval {
        connections,
        sums,
        interval_us: 1_000_000,
        time: "12:34:56".into(),
    }
}

fn state() -> State {
    let choice = Choice {
        sort: Sort::Rate,
        by: None,
        by_columns: false,
        top: usize::MAX,
        all: false,
        stalled_us: None,
    };
    let mut state = State::new(choice, "1s".into());
    state.show(interval(connections()));
    state
}

fn picture(state: &State, columns: u16, lines: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    let look = Look { colour: false };
    terminal.draw(|frame| draw(frame, state, look)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y: u16| {
        let cells = (0..columns).map(|x| buffer[(x, y)].symbol());
        let line = cells.collect::<String>();
        format!("{}\n", line.trim_end())
    };
    (0..lines).map(line).collect()
}

fn press(state: &mut State, keys: &str) -> Act {
    let mut act = Act::Draw;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x19' => KeyCode::Down,
            key => KeyCode::Char(key),
        };
        act = state.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    act
}

/// Keys, and the sizes at which the screen is looked at then.
const FRAMES: [(&str, &[(u16, u16)]); 9] = [
    ("", &[(80, 12), (40, 5), (130, 8), (300, 6)]),
    ("a", &[(80, 10)]),
    ("w", &[(80, 10), (200, 10)]),
    ("g", &[(80, 10), (40, 6)]),
    ("gg\n", &[(80, 10)]),
    ("/evil\n", &[(80, 8)]),
    ("/\u{1b}/x", &[(80, 6)]),
    ("w\n", &[(80, 24), (160, 20), (40, 7)]),
    ("h", &[(80, 20)]),
];

#[test]
fn golden_frames() {
    let mut text = String::new();
    for (keys, sizes) in FRAMES {
        for &(columns, lines) in sizes {
            let mut state = state();
            press(&mut state, keys);
            let frame = picture(&state, columns, lines);
            text += &format!("== {keys:?} at {columns}x{lines}\n{frame}\n");
        }
    }
    files::check("screen/tcptop.txt", &text);
}

#[test]
fn every_size_can_be_drawn() {
    for keys in ["", "a", "w", "w\n", "g", "h", "/abc"] {
        let mut state = state();
        press(&mut state, keys);
        for (columns, lines) in [
            (1, 1),
            (1, 2),
            (2, 3),
            (7, 4),
            (40, 5),
            (300, 5),
            (40, 100),
            (1000, 3),
        ] {
            for line in picture(&state, columns, lines).lines() {
                assert!(line.width() <= columns.into(), "{keys:?}: {line}");
            }
        }
    }
}

/// Whatever a process is called: only its escaped name reaches the cells of the screen.
#[test]
fn foreign_text_cannot_draw() {
    for keys in ["a", "ag", "agg", "a/\u{7}\u{202e}\n", "/\u{1b}\u{9b}"] {
        let mut state = state();
        press(&mut state, keys);
        state.note = Some("\u{1b}]0;title\u{7}".into());
        let frame = picture(&state, 120, 20);
        // The ellipsis of a name that was cut is U+2026.
        let odd =
            |c: &char| *c != '\n' && (c.is_control() || ('\u{202a}'..='\u{206f}').contains(c));
        assert_eq!(frame.chars().find(odd), None, "{keys:?}: {frame}");
    }
    let mut state = state();
    press(&mut state, "a");
    assert!(picture(&state, 120, 20).contains(r"\x1b[2J"));
}

fn ports(state: &State) -> Vec<u16> {
    let port = |line: &Line| match line {
        Line::Connection(one) => Some(one.conn.head.flow.lport),
        Line::Group(_) => None,
    };
    state.lines.iter().filter_map(port).collect()
}

#[test]
fn keys_sort_group_and_filter() {
    let mut state = state();
    assert_eq!(ports(&state), [49_152, 50_000]);
    press(&mut state, "sss");
    assert_eq!(
        (state.choice.sort, ports(&state)),
        (Sort::Retrans, vec![50_000])
    );
    press(&mut state, "SSSa");
    assert_eq!(ports(&state), [49_152, 50_000, 80]);
    press(&mut state, "w");
    assert_eq!(ports(&state), [80, 50_000], "the longest first");
    press(&mut state, "w/443\n");
    assert_eq!(ports(&state), [49_152, 50_000]);
    press(&mut state, "\x1b/:80\n");
    assert_eq!(ports(&state), [80]);
    press(&mut state, "\x1bg");
    assert_eq!(
        (state.choice.by.clone(), state.lines.len()),
        (Some(Keys::of(By::Pid)), 2)
    );
    press(&mut state, "\n");
    assert_eq!(
        (state.choice.by.clone(), ports(&state)),
        (None, vec![49_152, 50_000])
    );
    press(&mut state, "\x1b");
    assert_eq!(state.choice.by.clone(), Some(Keys::of(By::Pid)));
    press(&mut state, "\x1b");
    assert_eq!((state.choice.by.clone(), state.lines.len()), (None, 3));
}

#[test]
fn selection_stays_on_its_connection() {
    let mut state = state();
    press(&mut state, "a\x19");
    let mut later = connections();
    later[2].rx = 1 << 30;
    state.show(interval(later));
    let Some(Line::Connection(one)) = state.lines.get(state.selected) else {
        panic!("a connection is selected");
    };
    assert_eq!((one.conn.head.flow.lport, state.selected), (50_000, 2));
}

#[test]
fn opened_connection_is_followed_and_paused() {
    let mut state = state();
    press(&mut state, "w\n");
    let tx = |state: &State| state.opened.as_ref().map(|opened| opened.last.tx);
    assert_eq!(tx(&state), Some(0));
    let mut later = connections();
    later[2].tx = 77;
    state.show(interval(later.clone()));
    assert_eq!(tx(&state), Some(77));
    assert_eq!(state.opened.as_ref().unwrap().history[0], [0, 77]);
    press(&mut state, "p");
    later[2].tx = 99;
    state.show(interval(later.clone()));
    assert_eq!(tx(&state), Some(77));
    // Gone: the last that was seen of it stays.
    press(&mut state, "p");
    later.truncate(1);
    state.show(interval(later));
    assert_eq!(tx(&state), Some(77));
    press(&mut state, "\x1b");
    assert_eq!(tx(&state), None);
}

#[test]
fn quit_and_stop() {
    let control = |key| KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
    for keys in ["", "h", "w\n"] {
        let mut state = state();
        press(&mut state, keys);
        assert_eq!(press(&mut state, "q"), Act::Quit);
    }
    let mut state = state();
    assert_eq!(press(&mut state, "/q"), Act::Draw, "it is text");
    assert_eq!(state.key(control('c')), Act::Quit);
    assert_eq!(state.key(control('z')), Act::Suspend);
}
