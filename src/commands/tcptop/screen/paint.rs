// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines of text in parts of the screen.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line as Text;

use super::text::shown;
use crate::output::Value;

/// How things look: without colours only by bold and reverse.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub(super) colour: bool,
}

impl Look {
    pub(super) fn title(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn wrong(self) -> Style {
        match self.colour {
            true => Style::new().fg(Color::Red),
            false => self.strong(),
        }
    }

    pub(super) fn selected(self) -> Style {
        match self.colour {
            true => Style::new()
                .bg(Color::DarkGray)
                .add_modifier(Modifier::BOLD),
            false => Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
        }
    }
}

/// The first lines of an area, and the others.
pub(super) fn split(area: Rect, lines: u16) -> (Rect, Rect) {
    let lines = lines.min(area.height);
    let first = Rect {
        height: lines,
        ..area
    };
    let rest = Rect {
        y: area.y + lines,
        height: area.height - lines,
        ..area
    };
    (first, rest)
}

/// One line, cut where the area ends.
pub(super) fn put(frame: &mut Frame<'_>, area: Rect, text: &str, style: Style) {
    lines(frame, area, &[Text::styled(text, style)]);
}

/// Lines, cut where the area ends.
pub(super) fn lines(frame: &mut Frame<'_>, area: Rect, lines: &[Text<'_>]) {
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        frame.buffer_mut().set_line(area.x, y, line, area.width);
    }
}

/// For labels that are followed by a value.
pub(super) fn value(value: &Value<'_>, unit: &str) -> String {
    match value {
        Value::Unknown => "-".into(),
        value => format!("{} {unit}", shown(value)).trim_end().to_owned(),
    }
}
