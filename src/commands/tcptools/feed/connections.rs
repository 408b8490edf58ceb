// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which connection a row is about: its socket's cookie says so or, where it has none, its two ends.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::Row;

/// How many connections are remembered. The one unused for longest is forgotten; if it has another row after that, it
/// counts as another one.
pub const MOST: usize = 4096;

/// The two ends, as this host names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    pub netns: u64,
    pub local: (IpAddr, u16),
    pub remote: (IpAddr, u16),
}

impl Ends {
    /// `None`: the row does not have both.
    pub fn of(row: &Row) -> Option<Self> {
        let end = |addr, port| {
            let port = u16::try_from(row.number(port)?).ok()?;
            Some((row.addr(addr)?, port))
        };
        Some(Self {
            netns: row.number("netns").unwrap_or_default(),
            local: end("laddr", "lport")?,
            remote: end("raddr", "rport")?,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Cookie(u64),
    Ends(Ends),
}

/// A connection, or one end of it where both are on this host.
#[derive(Debug)]
pub struct Connection<T> {
    /// The first one has 1.
    pub number: u64,
    pub cookie: Option<u64>,
    pub ends: Option<Ends>,
    /// The time of its first row.
    pub first_ns: u64,
    /// What is remembered of it.
    pub about: T,
    used: u64,
}

/// Those that are remembered.
pub struct Connections<T> {
    known: HashMap<u64, Connection<T>>,
    numbers: HashMap<Key, u64>,
    /// The one unused for longest comes first.
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    /// How many there were.
    pub count: u64,
    most: usize,
}

/// Whether a row is about one socket. Sums and listeners, which are sums too, are not.
fn is_of_socket(row: &Row) -> bool {
    row.tool() == "tcptop" || row.value("interval_us").is_none()
}

impl<T: Default> Connections<T> {
    pub fn new(most: usize) -> Self {
        Self {
            known: HashMap::new(),
            numbers: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            count: 0,
            most,
        }
    }

    /// The number of the row's connection, if that is remembered.
    pub fn find(&self, row: &Row) -> Option<u64> {
        if !is_of_socket(row) {
            return None;
        }
        let cookie = row.number("cookie");
        if let Some(number) = cookie.and_then(|cookie| self.numbers.get(&Key::Cookie(cookie))) {
            return Some(*number);
        }
        let number = *self.numbers.get(&Key::Ends(Ends::of(row)?))?;
        // Another cookie is another connection between the same ends.
        let is_other = cookie.is_some() && self.known.get(&number)?.cookie.is_some();
        (!is_other).then_some(number)
    }

    /// Whether there is room for a connection that is new.
    fn is_full(&self) -> bool {
        self.known.len() >= self.most
    }

    /// The row's connection, and one that was forgotten for it, if it is new and there was no room.
    ///
    /// `None`: the row is not about a connection.
    pub fn of(&mut self, row: &Row) -> Option<Found<'_, T>> {
        let (cookie, ends) = (row.number("cookie"), Ends::of(row));
        // An open has its local port only once that is chosen.
        let whole = ends.filter(|ends| ends.local.1 != 0);
        let found = self.find(row);
        if found.is_none() && (!is_of_socket(row) || cookie.is_none() && ends.is_none()) {
            return None;
        }
        let is_new = found.is_none();
        let forgotten = (is_new && self.is_full()).then(|| self.forget()).flatten();
        let number = found.unwrap_or_else(|| {
            self.count += 1;
            self.count
        });
        self.uses += 1;
        let keys = cookie.map(Key::Cookie).into_iter();
        for key in keys.chain(whole.map(Key::Ends)) {
            self.numbers.insert(key, number);
        }
        let one = self.known.entry(number).or_insert_with(|| Connection {
            number,
            cookie,
            ends,
            first_ns: row.boot_ns(),
            about: T::default(),
            used: self.uses,
        });
        self.by_use.remove(&one.used);
        self.by_use.insert(self.uses, number);
        one.used = self.uses;
        one.cookie = one.cookie.or(cookie);
        // A socket can be connected again, from another port.
        if whole.is_some() && one.ends != whole {
            let before = std::mem::replace(&mut one.ends, whole).map(Key::Ends);
            if let Some(key) = before.filter(|key| self.numbers.get(key) == Some(&number)) {
                self.numbers.remove(&key);
            }
        }
        Some(Found { one, forgotten })
    }

    fn forget(&mut self) -> Option<Connection<T>> {
        let (_, number) = self.by_use.pop_first()?;
        let one = self.known.remove(&number)?;
        let keys = one.cookie.map(Key::Cookie).into_iter();
        for key in keys.chain(one.ends.map(Key::Ends)) {
            if self.numbers.get(&key) == Some(&number) {
                self.numbers.remove(&key);
            }
        }
        Some(one)
    }

    /// All that are remembered, in the order of their numbers.
    pub fn drain(&mut self) -> Vec<Connection<T>> {
        let mut all: Vec<_> = self.known.drain().map(|(_, one)| one).collect();
        all.sort_by_key(|one| one.number);
        self.numbers.clear();
        self.by_use.clear();
        all
    }
}

/// See [`Connections::of`].
pub struct Found<'a, T> {
    pub one: &'a mut Connection<T>,
    pub forgotten: Option<Connection<T>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cookie: &str, lport: u16) -> Row {
        let text = format!(
            r#"{{"tool":"t","event":"e","boot_ns":5,"netns":1,"cookie":{cookie},"laddr":"10.0.0.1",
            "lport":{lport},"raddr":"10.0.0.2","rport":80}}"#
        );
        Row::parse(text.replace('\n', ""), 0).unwrap()
    }

    fn number(all: &mut Connections<()>, cookie: &str, lport: u16) -> u64 {
        all.of(&row(cookie, lport)).unwrap().one.number
    }

    #[test]
    fn cookies_then_ends_tell_connections() {
        let mut all = Connections::<()>::new(10);
        assert_eq!(number(&mut all, "null", 1000), 1);
        assert_eq!(number(&mut all, "7", 1000), 1, "the cookie is known later");
        assert_eq!(number(&mut all, "7", 1000), 1);
        assert_eq!(number(&mut all, "8", 1000), 2, "the same ends, used again");
        assert_eq!(number(&mut all, "null", 1000), 2, "of the later one");
        assert_eq!(number(&mut all, "7", 1000), 1);
        assert_eq!(number(&mut all, "null", 1001), 3);
        let sum = r#"{"tool":"tcpaccept","event":"listener","interval_us":1,"cookie":9}"#;
        assert!(all.of(&Row::parse(sum.into(), 0).unwrap()).is_none());
        let none = r#"{"tool":"t","event":"summary","cookie":null}"#;
        assert!(all.of(&Row::parse(none.into(), 0).unwrap()).is_none());
    }

    #[test]
    fn those_unused_for_longest_are_forgotten() {
        let mut all = Connections::<()>::new(2);
        assert_eq!(number(&mut all, "1", 1), 1);
        assert_eq!(number(&mut all, "2", 2), 2);
        assert_eq!(number(&mut all, "1", 1), 1);
        let forgotten = all.of(&row("3", 3)).unwrap().forgotten.unwrap();
        assert_eq!(forgotten.cookie, Some(2));
        assert_eq!(number(&mut all, "1", 1), 1);
        assert_eq!(number(&mut all, "2", 2), 4);
        assert_eq!((all.known.len(), all.by_use.len()), (2, 2));
        assert_eq!(all.numbers.len(), 4);
    }
}
