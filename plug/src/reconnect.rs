//! `reconnect://{LOCATOR}`: a link that is opened again when it has ended.
//!
//! Theory of operation. *here* → *away* (until its next try) → here; *here* → *parked* → here. The pause begins short, doubles with each try that fails
//! up to its maximum, and has jitter, so that many cables to one host do not come back in step; it begins anew once a
//! link has stood for [`GOOD`]. While it is away there is no carrier, and frames are counted as [`DropReason::LinkDown`]. An end
//! that another try would only repeat ([`FaultKind::is_retryable`]) ends this link too.
//!
//! A client of a switch has no carrier that it could take from its port but by leaving it. So when the owner has none to
//! offer, such a link is parked: closed until the owner has it again, and to the owner as if it were here.
//!
//! Invariant: the owner sees one link, whose counters only grow.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

use link::{Capabilities, Counters, DropCounts, DropReason, Link, LinkState, Offloads, RxBatch, TxBatch, Way};
use mio::{Registry, Token};

use crate::fault::FaultKind;
use crate::{OpenError, Spec};

/// The pauses between tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// The first.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Default for Pauses {
    /// A quarter of a second, and three: with a connection that takes one, a host that has returned is found within five.
    fn default() -> Self {
        Self { min: Duration::from_millis(250), max: Duration::from_secs(3) }
    }
}

impl Pauses {
    /// The pause behind so many failures, a quarter more or less by `random`.
    #[must_use]
    pub fn after(&self, failures: u32, random: u64) -> Duration {
        let doubled = self.min.saturating_mul(1 << failures.min(20)).min(self.max);
        let part = u32::try_from(random % 1024).unwrap_or(0);
        doubled.mul_f64(0.75 + 0.5 * f64::from(part) / 1024.0)
    }
}

/// A link that was here for so long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// A link that comes back.
pub struct Reconnect {
    name: String,
    spec: Spec,
    pauses: Pauses,
    accepts: Offloads,
    inner: Inner,
    /// Why the link has ended, and when that was found; [`Link::service`] deals with it.
    end: Option<(String, Instant)>,
    /// Tries since one was good.
    failures: u32,
    /// When the link was opened last.
    opened: Instant,
    watch: Option<(Registry, Token)>,
    past: Counters,
    drops: DropCounts,
    random: RandomState,
}

enum Inner {
    Here(Box<dyn Link>),
    Away(Instant),
    Parked,
}

impl Reconnect {
    /// A link that is opened at once, and again whenever it ends.
    ///
    /// # Errors
    /// It cannot be opened, and another try would not help.
    pub fn open(name: String, spec: Spec, pauses: Pauses) -> Result<Self, OpenError> {
        let mut link = Self {
            name,
            spec,
            pauses,
            accepts: Offloads::NONE,
            inner: Inner::Away(Instant::now()),
            end: None,
            failures: 0,
            opened: Instant::now(),
            watch: None,
            past: Counters::default(),
            drops: DropCounts::default(),
            random: RandomState::new(),
        };
        match link.spec.clone().open() {
            Ok(inner) => link.inner = Inner::Here(inner),
            Err(error) if error.kind().is_retryable() => link.leave(&error.to_string(), Instant::now()),
            Err(error) => return Err(error),
        }
        Ok(link)
    }

    /// Tries again, if it is time.
    fn try_again(&mut self, now: Instant) -> io::Result<()> {
        match self.inner {
            Inner::Away(until) if until <= now => {}
            _ => return Ok(()),
        }
        match self.spec.clone().open() {
            Ok(mut inner) => {
                inner.accept(self.accepts)?;
                if let Some((registry, token)) = &self.watch {
                    inner.register(registry, *token)?;
                }
                (self.inner, self.opened) = (Inner::Here(inner), now);
                // What became ready before it was registered is told by nobody.
                self.with_inner(|inner| inner.service(now)).map(drop)
            }
            Err(error) if error.kind().is_retryable() => {
                self.leave(&error.to_string(), now);
                Ok(())
            }
            Err(error) => Err(error.kind().error(error.to_string())),
        }
    }

    /// Lets go of the link, and says why and when it is tried again.
    fn leave(&mut self, why: &str, now: Instant) {
        if matches!(self.inner, Inner::Here(_)) && now.saturating_duration_since(self.opened) >= GOOD {
            self.failures = 0;
        }
        self.close();
        let pause =
            self.pauses.after(self.failures, self.random.hash_one(self.failures.wrapping_add(now_as_number(now))));
        log::warn!("{why}; tried again in {:.1} s", pause.as_secs_f64());
        self.failures = self.failures.saturating_add(1);
        self.inner = Inner::Away(now + pause);
    }

    fn close(&mut self) {
        if let Inner::Here(inner) = &mut self.inner {
            if let Some((registry, _)) = &self.watch {
                // Closing its descriptors ends it in any case.
                let _ = inner.deregister(registry);
            }
            self.past.merge(&inner.counters());
        }
    }

    /// Does something with the link if it is here; its end is borne if another try may help.
    fn with_inner<T>(&mut self, act: impl FnOnce(&mut dyn Link) -> io::Result<T>) -> io::Result<Option<T>> {
        let Inner::Here(inner) = &mut self.inner else { return Ok(None) };
        match act(&mut **inner) {
            Ok(value) => Ok(Some(value)),
            Err(error) if FaultKind::of(&error).is_retryable() => {
                let words = error.to_string();
                let what = if words.contains("://") { words } else { format!("{}: {words}", inner.name()) };
                self.end.get_or_insert((what, Instant::now()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Something that differs from one call to the next.
fn now_as_number(now: Instant) -> u32 {
    now.elapsed().subsec_nanos()
}

impl Link for Reconnect {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        match &self.inner {
            Inner::Here(inner) => inner.capabilities(),
            Inner::Away(_) | Inner::Parked => Capabilities { offloads: Offloads::ALL, ..Capabilities::PLAIN },
        }
    }

    fn native_offloads(&self) -> Offloads {
        match &self.inner {
            Inner::Here(inner) => inner.native_offloads(),
            Inner::Away(_) | Inner::Parked => Offloads::ALL,
        }
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.accepts = offloads;
        match &mut self.inner {
            Inner::Here(inner) => inner.accept(offloads),
            Inner::Away(_) | Inner::Parked => Ok(()),
        }
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.watch = Some((registry.try_clone()?, token));
        match &mut self.inner {
            Inner::Here(inner) => inner.register(registry, token),
            Inner::Away(_) | Inner::Parked => Ok(()),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.watch = None;
        match &mut self.inner {
            Inner::Here(inner) => inner.deregister(registry),
            Inner::Away(_) | Inner::Parked => Ok(()),
        }
    }

    fn service(&mut self, now: Instant) -> io::Result<()> {
        self.with_inner(|inner| inner.service(now))?;
        if let Some((what, _)) = self.end.take() {
            self.leave(&what, now);
        }
        self.try_again(now)
    }

    fn deadline(&self) -> Option<Instant> {
        if let Some((_, since)) = &self.end {
            return Some(*since);
        }
        match &self.inner {
            Inner::Here(inner) => inner.deadline(),
            Inner::Away(until) => Some(*until),
            Inner::Parked => None,
        }
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        match self.with_inner(|inner| inner.send(batch))? {
            Some(taken) => Ok(taken),
            None => {
                self.drops.add(DropReason::LinkDown, batch.len() as u64);
                Ok(batch.len())
            }
        }
    }

    fn answers(&self) -> bool {
        matches!(&self.inner, Inner::Here(inner) if inner.answers())
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        self.with_inner(|inner| inner.receive(batch)).map(Option::unwrap_or_default)
    }

    fn state(&self) -> LinkState {
        match &self.inner {
            Inner::Here(inner) => inner.state(),
            Inner::Away(_) => LinkState::Down,
            Inner::Parked => LinkState::Up,
        }
    }

    fn look_again(&mut self) {
        if let Inner::Here(inner) = &mut self.inner {
            inner.look_again();
        }
    }

    fn show_carrier(&mut self, carrier: LinkState) {
        let is_client = matches!(self.spec, Spec::Vde(_));
        match (&mut self.inner, carrier) {
            (Inner::Here(_), LinkState::Down) if is_client => {
                self.close();
                self.inner = Inner::Parked;
            }
            (Inner::Parked, LinkState::Up) => self.inner = Inner::Away(Instant::now()),
            (Inner::Here(inner), _) => inner.show_carrier(carrier),
            (Inner::Away(_) | Inner::Parked, _) => {}
        }
    }

    fn way(&self) -> Option<Way> {
        if let Inner::Here(inner) = &self.inner { inner.way() } else { None }
    }

    fn counters(&self) -> Counters {
        let mut counters = self.past;
        if let Inner::Here(inner) = &self.inner {
            counters.merge(&inner.counters());
        }
        counters.drops.merge(&self.drops);
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_maximum_and_have_jitter() {
        let pauses = Pauses::default();
        let mean = |failures| pauses.after(failures, 512).as_millis();
        assert_eq!([0, 1, 2, 3, 4, 40].map(mean), [250, 500, 1000, 2000, 3000, 3000]);
        assert_eq!(pauses.after(0, 0).as_micros(), 187_500);
        assert!((312_000..312_500).contains(&pauses.after(0, 1023).as_micros()));
    }

    #[test]
    fn what_another_try_cannot_mend_is_an_error_at_once() {
        let spec = Spec::parse(&"tap://much-too-long-a-name".parse().unwrap()).unwrap();
        assert!(Reconnect::open("reconnect://x".to_owned(), spec, Pauses::default()).is_err());
    }

    #[test]
    fn a_link_that_is_away_counts_what_is_sent_and_says_when_it_tries_again() {
        let spec = Spec::parse(&"vde:///nowhere".parse().unwrap()).unwrap();
        let mut link = Reconnect::open("reconnect://x".to_owned(), spec, Pauses::default()).unwrap();
        assert_eq!(link.state(), LinkState::Down);
        let mut batch = TxBatch::new();
        batch.push(link::VnetHeader::WHOLE, [link::Fragment::new(&[0; 60])]);
        assert_eq!(link.send(&batch).unwrap(), 1);
        assert_eq!(link.counters().drops.get(DropReason::LinkDown), 1);
        let first = link.deadline().unwrap();
        link.service(first).unwrap();
        assert!(link.deadline().unwrap() > first);
    }
}
