//! The grammar that names a link, the same on every command line.
//!
//! `scheme://address?key=value&key=value`, where `%XX` stands for a byte in a value and a `%` at its end or in front of
//! a comma for itself (`loss=1%,25%`), or QEMU's `type,key=value,key=value`, where `,,` stands for a comma. A link
//! around another has that one's locator as its address, in braces: `impair://{tap://tap0?mtu=9000}?loss=1`. That of `cmd` is a command line to its end, without options. Both
//! become a [`Locator`]: plain data. What a scheme means and which keys it takes, the kind itself knows; it takes its
//! keys out of [`Options`], and what is left over is an error that names the key.

use std::fmt;
use std::str::FromStr;

/// A link's name, taken apart but not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locator {
    /// The kind: `tap`, `user`, `vde`, …
    pub scheme: String,
    /// What stands between `://` and `?`.
    pub address: String,
    /// The keys and values.
    pub options: Options,
}

/// Text that is no locator, or a locator with a part that its kind does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocatorError {
    /// Neither form.
    #[error("'{0}' is not a locator: expected scheme://address, as in tap://tap0 or user://")]
    NoScheme(String),
    /// A key without `=`.
    #[error("{kind}: option '{key}' needs a value ({key}=…)")]
    NoValue {
        /// The link's kind.
        kind: String,
        /// The key.
        key: String,
    },
    /// A `%` that two hexadecimal digits do not follow, or that makes no text.
    #[error("{kind}: '{text}': '%' is followed by two hexadecimal digits")]
    BadEscape {
        /// The link's kind.
        kind: String,
        /// The value.
        text: String,
    },
    /// A key that the kind does not take.
    #[error("{kind}: unknown option '{key}'")]
    UnknownKey {
        /// The link's kind.
        kind: String,
        /// The key.
        key: String,
    },
    /// A key given twice where once makes sense.
    #[error("{kind}: option '{key}' is given twice")]
    Twice {
        /// The link's kind.
        kind: String,
        /// The key.
        key: String,
    },
    /// A value that the key does not take.
    #[error("{kind}: {key}={value}: {why}")]
    BadValue {
        /// The link's kind.
        kind: String,
        /// The key.
        key: String,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A link around another, without the other.
    #[error("{kind}: expected a locator in braces, as in {kind}://{{tap://tap0}}, not '{address}'")]
    NotNested {
        /// The link's kind.
        kind: String,
        /// What stands there instead.
        address: String,
    },
    /// A kind that nobody knows.
    #[error("unknown kind of link '{0}'")]
    UnknownKind(String),
}

/// A kind whose address is everything behind it: a command line, which has question marks of its own.
const VERBATIM: &str = "cmd";

/// Keys and values, in the order given; a key may occur several times (`hostfwd`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    kind: String,
    pairs: Vec<(String, String)>,
}

impl Locator {
    /// Parses QEMU's spelling, as behind `-netdev` and `-net`: `user,hostfwd=tcp::2222-:22`.
    ///
    /// A key without a value is `on`, and `nokey` is `key=off`, as QEMU has it.
    #[must_use]
    pub fn from_qemu(text: &str) -> Self {
        let mut parts = split_commas(text).into_iter();
        let scheme = parts.next().unwrap_or_default();
        let pairs = parts
            .map(|part| match part.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => (part, "on".to_owned()),
            })
            .collect();
        Self { options: Options { kind: scheme.clone(), pairs }, scheme, address: String::new() }
    }
}

impl Locator {
    /// The locator that is the address of a link around another; takes it out.
    ///
    /// # Errors
    /// [`LocatorError::NotNested`], or what is wrong with the inner locator.
    pub fn take_nested(&mut self) -> Result<Self, LocatorError> {
        let address = std::mem::take(&mut self.address);
        match address.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(inner) => inner.parse(),
            None => Err(LocatorError::NotNested { kind: self.scheme.clone(), address }),
        }
    }
}

/// Splits at single commas; a doubled comma is a comma.
fn split_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, parts.last_mut()) {
            (',', Some(part)) if chars.peek() == Some(&',') => {
                chars.next();
                part.push(',');
            }
            (',', _) => parts.push(String::new()),
            (c, Some(part)) => part.push(c),
            (_, None) => {}
        }
    }
    parts
}

impl FromStr for Locator {
    type Err = LocatorError;

    fn from_str(text: &str) -> Result<Self, LocatorError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| LocatorError::NoScheme(text.to_owned()))?;
        if scheme.is_empty() || !scheme.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c)) {
            return Err(LocatorError::NoScheme(text.to_owned()));
        }
        let (address, query) = if scheme == VERBATIM { (rest, "") } else { split_query(rest) };
        let pairs = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| match part.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), unescape(scheme, value)?)),
                None => Err(LocatorError::NoValue { kind: scheme.to_owned(), key: part.to_owned() }),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            scheme: scheme.to_owned(),
            address: address.to_owned(),
            options: Options { kind: scheme.to_owned(), pairs },
        })
    }
}

/// What stands before the first question mark outside of braces, and what behind it.
fn split_query(text: &str) -> (&str, &str) {
    let mut depth = 0_usize;
    let is_mark = |c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == '?' && depth == 0
    };
    match text.find(is_mark) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
}

fn unescape(kind: &str, text: &str) -> Result<String, LocatorError> {
    let error = || LocatorError::BadEscape { kind: kind.to_owned(), text: text.to_owned() };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        if matches!(rest, [] | [b',', ..]) {
            bytes.push(b'%');
            continue;
        }
        let [high, low, tail @ ..] = rest else { return Err(error()) };
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return Err(error()) };
        bytes.push(high << 4 | low);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| error())
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.address)?;
        for (i, (key, value)) in self.options.pairs.iter().enumerate() {
            write!(f, "{}{key}=", if i == 0 { '?' } else { '&' })?;
            for c in value.chars() {
                match c {
                    '%' | '&' => write!(f, "%{:02x}", u32::from(c))?,
                    c => write!(f, "{c}")?,
                }
            }
        }
        Ok(())
    }
}

impl Options {
    /// Takes a key that may be given once.
    ///
    /// # Errors
    /// [`LocatorError::Twice`].
    pub fn take(&mut self, key: &str) -> Result<Option<String>, LocatorError> {
        let mut values = self.take_all(key);
        if values.len() > 1 {
            return Err(LocatorError::Twice { kind: self.kind.clone(), key: key.to_owned() });
        }
        Ok(values.pop())
    }

    /// Takes a key that may be given once, and parses its value.
    ///
    /// # Errors
    /// [`LocatorError::Twice`], [`LocatorError::BadValue`].
    pub fn take_parsed<T>(&mut self, key: &str) -> Result<Option<T>, LocatorError>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let Some(value) = self.take(key)? else { return Ok(None) };
        value.parse().map(Some).map_err(|error: T::Err| self.bad_value(key, &value, &error))
    }

    /// Takes a switch: `on`, `yes`, `true` and `y`, or `off`, `no`, `false` and `n`.
    ///
    /// # Errors
    /// [`LocatorError::Twice`], [`LocatorError::BadValue`].
    pub fn take_switch(&mut self, key: &str) -> Result<Option<bool>, LocatorError> {
        let Some(value) = self.take(key)? else { return Ok(None) };
        match value.as_str() {
            "on" | "yes" | "true" | "y" => Ok(Some(true)),
            "off" | "no" | "false" | "n" => Ok(Some(false)),
            _ => Err(self.bad_value(key, &value, &"expected on or off")),
        }
    }

    /// Adds a key.
    pub fn push(&mut self, key: &str, value: String) {
        self.pairs.push((key.to_owned(), value));
    }

    /// Takes every value of a key, in order.
    pub fn take_all(&mut self, key: &str) -> Vec<String> {
        self.pairs.extract_if(.., |(k, _)| k == key).map(|(_, value)| value).collect()
    }

    /// The error for a value that a key does not take.
    #[must_use]
    pub fn bad_value(&self, key: &str, value: &str, why: &dyn fmt::Display) -> LocatorError {
        LocatorError::BadValue {
            kind: self.kind.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            why: why.to_string(),
        }
    }

    /// Ends the taking.
    ///
    /// # Errors
    /// [`LocatorError::UnknownKey`] for the first key that nobody took.
    pub fn finish(self) -> Result<(), LocatorError> {
        match self.pairs.into_iter().next() {
            Some((key, _)) => Err(LocatorError::UnknownKey { kind: self.kind, key }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_mean_the_same() {
        let ours: Locator = "user://?hostfwd=tcp::2222-:22&net=10.0.2.0/24".parse().unwrap();
        let qemu = Locator::from_qemu("user,hostfwd=tcp::2222-:22,net=10.0.2.0/24");
        assert_eq!(ours, qemu);
        assert_eq!(ours.to_string(), "user://?hostfwd=tcp::2222-:22&net=10.0.2.0/24");
    }

    #[test]
    fn doubled_commas_and_percent_signs_escape() {
        let mut qemu = Locator::from_qemu("user,bootfile=a,,b,restrict");
        assert_eq!(qemu.options.take("bootfile").unwrap().unwrap(), "a,b");
        assert_eq!(qemu.options.take_switch("restrict").unwrap(), Some(true));
        let mut ours: Locator = "pcap:///tmp/x?note=a%26b%25".parse().unwrap();
        assert_eq!(ours.to_string(), "pcap:///tmp/x?note=a%26b%25");
        assert_eq!(ours.options.take("note").unwrap().unwrap(), "a&b%");
    }

    #[test]
    fn a_percentage_is_written_as_it_is_meant() {
        let mut locator: Locator = "impair://{null://}?loss=1%,25%&rate=5%25&tx.loss=2%".parse().unwrap();
        assert_eq!(locator.to_string().parse().as_ref(), Ok(&locator));
        assert_eq!(locator.options.take("loss").unwrap().unwrap(), "1%,25%");
        assert_eq!(locator.options.take("rate").unwrap().unwrap(), "5%");
        assert_eq!(locator.options.take("tx.loss").unwrap().unwrap(), "2%");
        assert!(matches!("x://?k=1%x".parse::<Locator>(), Err(LocatorError::BadEscape { .. })));
    }

    #[test]
    fn a_locator_in_braces_keeps_its_own_question_marks() {
        let text = "impair://{impair://{tap://t0?mtu=9000}?delay=5}?loss=1";
        let mut outer: Locator = text.parse().unwrap();
        assert_eq!(outer.to_string(), text);
        assert_eq!(outer.options.take("loss").unwrap().unwrap(), "1");
        let mut inner = outer.take_nested().unwrap();
        assert_eq!(inner.options.take("delay").unwrap().unwrap(), "5");
        assert_eq!(inner.take_nested().unwrap().to_string(), "tap://t0?mtu=9000");
        let error = "impair://tap0".parse::<Locator>().unwrap().take_nested().unwrap_err().to_string();
        assert!(error.starts_with("impair: expected a locator in braces"), "{error}");
        assert!("impair://{x?a=}}?b=1".parse::<Locator>().is_ok_and(|mut odd| odd.take_nested().is_err()));
    }

    #[test]
    fn what_nobody_took_is_named() {
        let mut locator = Locator::from_qemu("user,nett=1,net=2,net=3");
        assert_eq!(locator.options.take("net").unwrap_err().to_string(), "user: option 'net' is given twice");
        assert_eq!(locator.options.finish().unwrap_err().to_string(), "user: unknown option 'nett'");
    }

    #[test]
    fn text_without_a_scheme_is_refused() {
        for text in ["", "tap0", "://x", "a b://x"] {
            assert!(matches!(text.parse::<Locator>(), Err(LocatorError::NoScheme(_))), "{text}");
        }
        assert!(matches!("x://?k=%4".parse::<Locator>(), Err(LocatorError::BadEscape { .. })));
        assert!(matches!("x://?k".parse::<Locator>(), Err(LocatorError::NoValue { .. })));
    }
}
