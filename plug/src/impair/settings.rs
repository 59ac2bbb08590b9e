//! What can be done to the frames of one direction: the keys, as locators, the control socket and the manuals have
//! them, and the plain data that they make.
//!
//! Invariant: a key that is not in [`KEYS`] does not exist, and one that is there is read, printed and documented by
//! its entry. [`Settings::check`] has been asked before anything is done by the settings.
//!
//! Neighbours: `units` for the quantities, `fate` for what the settings do.

use std::time::Duration;

use super::units::{Share, decimal, rate, show_decimal, show_rate, show_time, size, time};

/// What is done to the frames of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How long a frame is under way.
    pub delay: Duration,
    /// How far the delay varies.
    pub jitter: Duration,
    /// How it varies.
    pub distribution: Distribution,
    /// Whether a frame with a short delay may overtake one with a long delay.
    pub overtake: bool,
    /// Frames that skip the delay.
    pub reorder: Chance,
    /// Only every so many frames may skip it; 0 is 1.
    pub gap: u32,
    /// Frames that are lost.
    pub loss: Chance,
    /// The mean length of a run of lost frames, in 1/1000 frame.
    pub burst: Option<u64>,
    /// Another model of loss.
    pub gemodel: Option<GilbertElliott>,
    /// Frames that arrive twice.
    pub duplicate: Chance,
    /// Frames of which one bit is inverted.
    pub corrupt: Chance,
    /// Inverted bits in a mebibyte, in 1/1000.
    pub noise: u64,
    /// Bits a second that leave a queue.
    pub rate: Option<u64>,
    /// Bits a second that are taken at all: the sender is held up.
    pub speed: Option<u64>,
    /// How many frames may wait.
    pub limit: Option<u32>,
    /// How many bytes may wait.
    pub buffer: Option<u64>,
    /// The longest payload behind the Ethernet header, in bytes.
    pub mtu: Option<u16>,
    /// How long everything is lost, from when it is set. 0 ends what was set before.
    pub blackhole: Option<Duration>,
}

/// How a delay varies by the jitter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// No further than the jitter, and anything in between is as likely.
    #[default]
    Uniform,
    /// The jitter is the standard deviation.
    Normal,
    /// Most are a little early, few are very late.
    Pareto,
    /// Three parts of that and one of normal.
    ParetoNormal,
}

/// What happens to some frames, and how likely to the next one too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chance {
    /// To how many it happens.
    pub share: Share,
    /// How likely it is that a frame fares as the one before instead of by chance. The share stays what it is.
    pub correlation: Share,
}

/// A channel with a good and a bad state (Elliott, "Estimates of error rates for codes on burst-noise channels", 1963).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GilbertElliott {
    /// From good to bad, with each frame.
    pub worsen: Share,
    /// From bad to good, with each frame.
    pub recover: Share,
    /// Frames lost in the bad state: 1-h.
    pub loss_in_bad: Share,
    /// Frames lost in the good state: 1-k.
    pub loss_in_good: Share,
}

/// Both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sides {
    /// Into the wrapped link.
    pub tx: Settings,
    /// Out of it.
    pub rx: Settings,
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}={value}: {why}")]
pub struct SettingError {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub why: String,
}

/// A key: how it is read, printed and explained.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is called.
    pub form: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Sets it; nothing is set by [`OFF`]. The error says what was expected.
    put: fn(&mut Settings, Option<&str>) -> Result<(), String>,
    /// Its value, if it is set.
    show: fn(&Settings) -> Option<String>,
}

/// The value that stands for no value.
pub const OFF: &str = "off";

/// Every key.
pub static KEYS: [Key; 18] = [
    Key {
        name: "delay",
        form: "TIME",
        help: "How long each frame is under way, as 50ms; a number without unit is in milliseconds.",
        put: |settings, value| take(&mut settings.delay, value, TIME, |text| time(text, "ms")),
        show: |settings| shown(&settings.delay, |time| show_time(*time)),
    },
    Key {
        name: "jitter",
        form: "TIME",
        help: "How far the delay varies, to either side. Frames stay in order, so one that follows another closely may \
               wait for it; overtake=on lets it pass.",
        put: |settings, value| take(&mut settings.jitter, value, TIME, |text| time(text, "ms")),
        show: |settings| shown(&settings.jitter, |time| show_time(*time)),
    },
    Key {
        name: "distribution",
        form: "uniform|normal|pareto|paretonormal",
        help: "How the delay varies: anything within the jitter is as likely (uniform, the default), or with the \
               jitter as the standard deviation. No delay is less than 0.",
        put: |settings, value| take(&mut settings.distribution, value, DISTRIBUTION, Distribution::parse),
        show: |settings| shown(&settings.distribution, |distribution| distribution.name().to_owned()),
    },
    Key {
        name: "overtake",
        form: "on|off",
        help: "Whether jitter may put frames out of order, as netem's does and wirefilter's with -N (default off).",
        put: |settings, value| {
            take(&mut settings.overtake, value, "expected on or off", |text| (text == "on").then_some(true))
        },
        show: |settings| settings.overtake.then(|| "on".to_owned()),
    },
    Key {
        name: "reorder",
        form: "PERCENT[,CORRELATION]",
        help: "Frames that skip the delay and so overtake others. It needs a delay.",
        put: |settings, value| take(&mut settings.reorder, value, CHANCE, Chance::parse),
        show: |settings| shown(&settings.reorder, Chance::show),
    },
    Key {
        name: "gap",
        form: "N",
        help: "Of N frames at most one skips the delay (default 1).",
        put: |settings, value| take(&mut settings.gap, value, "expected a number of frames, 1 or more", at_least_one),
        show: |settings| shown(&settings.gap, u32::to_string),
    },
    Key {
        name: "loss",
        form: "PERCENT[,CORRELATION]",
        help: "Frames that are lost. CORRELATION, here and elsewhere, is how likely a frame fares as the one before \
               instead of by chance; the percentage holds all the same.",
        put: |settings, value| take(&mut settings.loss, value, CHANCE, Chance::parse),
        show: |settings| shown(&settings.loss, Chance::show),
    },
    Key {
        name: "burst",
        form: "FRAMES",
        help: "Frames are lost in runs of this mean length. The percentage of loss stays the same.",
        put: |settings, value| {
            let parse = |text: &str| decimal(text, 3).filter(|burst| *burst >= 1_000).map(Some);
            take(&mut settings.burst, value, "expected a number of frames, 1 or more, as in 2.5", parse)
        },
        show: |settings| settings.burst.map(|burst| show_decimal(burst, 3)),
    },
    Key {
        name: "gemodel",
        form: "P[,R[,1-H[,1-K]]]",
        help: "Loss by the Gilbert-Elliott model, in place of loss: the probability of passing from the good state to \
               the bad one, and back, and of losing a frame in the bad state, and in the good one (default R=100%-P, \
               1-H=100%, 1-K=0%).",
        put: |settings, value| {
            take(&mut settings.gemodel, value, GEMODEL, |text| GilbertElliott::parse(text).map(Some))
        },
        show: |settings| settings.gemodel.as_ref().map(GilbertElliott::show),
    },
    Key {
        name: "duplicate",
        form: "PERCENT[,CORRELATION]",
        help: "Frames that arrive twice.",
        put: |settings, value| take(&mut settings.duplicate, value, CHANCE, Chance::parse),
        show: |settings| shown(&settings.duplicate, Chance::show),
    },
    Key {
        name: "corrupt",
        form: "PERCENT[,CORRELATION]",
        help: "Frames of which one bit, anywhere in them, is inverted.",
        put: |settings, value| take(&mut settings.corrupt, value, CHANCE, Chance::parse),
        show: |settings| shown(&settings.corrupt, Chance::show),
    },
    Key {
        name: "noise",
        form: "BITS",
        help: "How many bits are inverted in each mebibyte (1048576 bytes), on average.",
        put: |settings, value| {
            take(&mut settings.noise, value, NOISE, |text| decimal(text, 3).filter(|n| *n <= MAX_NOISE))
        },
        show: |settings| shown(&settings.noise, |noise| show_decimal(*noise, 3)),
    },
    Key {
        name: "rate",
        form: "RATE",
        help: "Frames leave one after another at this rate, as 10mbit or 1250kbps (bytes a second), and wait until \
               then; limit and buffer say how many may wait.",
        put: |settings, value| take(&mut settings.rate, value, RATE, |text| rate(text).map(Some)),
        show: |settings| settings.rate.map(show_rate),
    },
    Key {
        name: "speed",
        form: "RATE",
        help: "Frames are taken no faster than at this rate; who sends is held up, if it can wait.",
        put: |settings, value| take(&mut settings.speed, value, RATE, |text| rate(text).map(Some)),
        show: |settings| settings.speed.map(show_rate),
    },
    Key {
        name: "limit",
        form: "N",
        help: "How many frames may wait, those that are delayed included; more are lost (default 1000 where there is a \
               rate, else 50000).",
        put: |settings, value| {
            let parse = |text: &str| at_least_one(text).map(Some);
            take(&mut settings.limit, value, "expected a number of frames, 1 or more", parse)
        },
        show: |settings| settings.limit.map(|limit| limit.to_string()),
    },
    Key {
        name: "buffer",
        form: "BYTES",
        help: "How many bytes may wait, as 64k; frames beyond that are lost (default 128m).",
        put: |settings, value| {
            take(&mut settings.buffer, value, "expected a number of bytes, as in 64k", |text| size(text).map(Some))
        },
        show: |settings| settings.buffer.map(|buffer| buffer.to_string()),
    },
    Key {
        name: "mtu",
        form: "BYTES",
        help: "Frames with more payload than this behind the Ethernet header and its VLAN tags are lost, and nobody is \
               told.",
        put: |settings, value| {
            let parse = |text: &str| text.parse().ok().filter(|mtu| *mtu > 0).map(Some);
            take(&mut settings.mtu, value, "expected a number of bytes, 1 to 65535", parse)
        },
        show: |settings| settings.mtu.map(|mtu| mtu.to_string()),
    },
    Key {
        name: "blackhole",
        form: "TIME",
        help: "Every frame is lost for so long from now, as 5s; a number without unit is in seconds.",
        put: |settings, value| {
            let value = value.or(Some("0"));
            take(&mut settings.blackhole, value, TIME, |text| time(text, "s").map(Some))
        },
        show: |settings| settings.blackhole.map(show_time),
    },
];

const TIME: &str = "expected a time, as in 50ms, at most a day";
const DISTRIBUTION: &str = "expected uniform, normal, pareto or paretonormal";
const CHANCE: &str = "expected a percentage, as in 0.1%, and perhaps a correlation behind a comma";
const GEMODEL: &str = "expected one to four percentages, as in 1%,10%";
const NOISE: &str = "expected a number of bits in a mebibyte, at most 1048576";
const RATE: &str = "expected a rate, as in 10mbit or 1250kbps, at most 10tbit";
const MAX_NOISE: u64 = (1 << 20) * 1_000;

impl Settings {
    /// Sets a key. [`OFF`] takes it back.
    ///
    /// # Errors
    /// Nobody knows the key, or it does not take the value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        let error = |why| SettingError { key: name.to_owned(), value: value.to_owned(), why };
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            return Err(error("no such setting; help lists them".to_owned()));
        };
        (key.put)(self, Some(value).filter(|value| *value != OFF)).map_err(error)
    }

    /// Every key that is set, and its value.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        KEYS.iter().filter_map(|key| Some((key.name, (key.show)(self)?)))
    }

    /// Whether nothing is done to any frame, a blackhole apart.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        let Self { delay, jitter, loss, gemodel, duplicate, corrupt, noise, rate, speed, mtu, .. } = self;
        let is_never = [loss, duplicate, corrupt].iter().all(|chance| chance.share == Share::NONE);
        let is_prompt = delay.is_zero() && jitter.is_zero() && rate.is_none() && speed.is_none();
        is_never && is_prompt && gemodel.is_none() && *noise == 0 && mtu.is_none()
    }

    /// Holds the settings against each other.
    ///
    /// # Errors
    /// Two contradict each other, or one does nothing without another.
    pub fn check(&self) -> Result<(), SettingError> {
        let value = |name: &str| self.shown().find(|(key, _)| *key == name).map(|(_, value)| value).unwrap_or_default();
        let error =
            |key: &str, why: &str| Err(SettingError { key: key.to_owned(), value: value(key), why: why.to_owned() });
        let has_loss = self.loss.share != Share::NONE;
        if self.gemodel.is_some() && (has_loss || self.burst.is_some()) {
            return error("gemodel", "it takes the place of loss and burst");
        }
        if self.burst.is_some() && self.loss.correlation != Share::NONE {
            return error("burst", "it takes the place of the correlation of loss");
        }
        if let Some(burst) = self.burst
            && (!has_loss || u64::from(self.loss.share.parts()) * 1_000 > burst * good_parts(self.loss.share))
        {
            return error("burst", "there is no such loss: it needs loss=PERCENT, and longer runs the higher that is");
        }
        if self.reorder.share != Share::NONE && self.delay.is_zero() {
            return error("reorder", "frames overtake others only where there is a delay");
        }
        Ok(())
    }

    /// The model by which frames are lost in runs, if they are.
    #[must_use]
    pub fn bursts(&self) -> Option<GilbertElliott> {
        let Some(burst) = self.burst else { return self.gemodel };
        // Lost in the bad state and there only: it lasts 1/recover frames, and takes up worsen/(worsen+recover) of all.
        let parts = u128::from(Share::PARTS);
        let worsen = u128::from(self.loss.share.parts()) * 1_000 * parts
            / (u128::from(burst) * u128::from(good_parts(self.loss.share))).max(1);
        Some(GilbertElliott {
            worsen: Share::of_parts(u64::try_from(worsen).unwrap_or(u64::MAX)),
            recover: Share::of_parts(u64::from(Share::PARTS) * 1_000 / burst.max(1)),
            loss_in_bad: Share::ALL,
            loss_in_good: Share::NONE,
        })
    }
}

impl Sides {
    /// What stands in front of a key for one direction; without it both are meant.
    pub const PREFIXES: [&str; 3] = ["", "tx.", "rx."];

    /// Sets a key, which may have a prefix.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        let full_name = |error| SettingError { key: name.to_owned(), ..error };
        match (name.strip_prefix("tx."), name.strip_prefix("rx.")) {
            (Some(name), _) => self.tx.set(name, value).map_err(full_name),
            (_, Some(name)) => self.rx.set(name, value).map_err(full_name),
            (None, None) => self.tx.set(name, value).and_then(|()| self.rx.set(name, value)),
        }
    }

    /// As [`Settings::check`], for both.
    ///
    /// # Errors
    /// See there.
    pub fn check(&self) -> Result<(), SettingError> {
        let one_side = |prefix: &str, error: SettingError| match self.tx == self.rx {
            true => error,
            false => SettingError { key: format!("{prefix}{}", error.key), ..error },
        };
        self.tx.check().map_err(|error| one_side("tx.", error))?;
        self.rx.check().map_err(|error| one_side("rx.", error))
    }
}

/// Parts that are not this share.
fn good_parts(share: Share) -> u64 {
    u64::from(Share::PARTS - share.parts())
}

impl Distribution {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Uniform, "uniform"),
        (Self::Normal, "normal"),
        (Self::Pareto, "pareto"),
        (Self::ParetoNormal, "paretonormal"),
    ];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, name)| *name == text).map(|(distribution, _)| distribution)
    }

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(distribution, _)| *distribution == self).map_or("", |(_, name)| name)
    }
}

impl Chance {
    fn parse(text: &str) -> Option<Self> {
        let (share, correlation) = text.split_once(',').unwrap_or((text, "0"));
        Some(Self { share: Share::parse(share)?, correlation: Share::parse(correlation)? })
    }

    fn show(&self) -> String {
        if self.correlation == Share::NONE {
            return self.share.show();
        }
        format!("{},{}", self.share.show(), self.correlation.show())
    }
}

impl GilbertElliott {
    fn parse(text: &str) -> Option<Self> {
        let mut shares = text.split(',').map(Share::parse);
        let worsen = shares.next()??;
        let mut next = |default| shares.next().unwrap_or(Some(default));
        let model = Self {
            worsen,
            recover: next(Share::of_parts(good_parts(worsen)))?,
            loss_in_bad: next(Share::ALL)?,
            loss_in_good: next(Share::NONE)?,
        };
        shares.next().is_none().then_some(model)
    }

    fn show(&self) -> String {
        [self.worsen, self.recover, self.loss_in_bad, self.loss_in_good].map(Share::show).join(",")
    }
}

/// Reads a value into its place; none makes it what it is where nothing is said.
fn take<T: Default>(
    place: &mut T,
    value: Option<&str>,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<(), String> {
    *place = match value {
        Some(text) => parse(text).ok_or_else(|| expected.to_owned())?,
        None => T::default(),
    };
    Ok(())
}

/// Prints a value that is not what it is where nothing is said.
fn shown<T: Default + PartialEq>(value: &T, show: impl FnOnce(&T) -> String) -> Option<String> {
    (*value != T::default()).then(|| show(value))
}

fn at_least_one(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(words: &str) -> Result<Settings, SettingError> {
        let mut settings = Settings::default();
        for word in words.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap();
            settings.set(key, value)?;
        }
        settings.check()?;
        Ok(settings)
    }

    #[test]
    fn what_is_set_is_shown_as_it_was_written() {
        let words = "delay=50ms jitter=5ms distribution=normal overtake=on reorder=25%,50% gap=5 loss=1% burst=2.5 \
                     duplicate=0.1% corrupt=0.1% noise=12.5 rate=10mbit speed=1gbit limit=100 buffer=65536 mtu=1400 \
                     blackhole=5s";
        let shown = |settings: &Settings| {
            settings.shown().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
        };
        let all = settings(words).unwrap();
        assert_eq!(shown(&all), words.split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!(shown(&settings("gemodel=1%").unwrap()), "gemodel=1%,99%,100%,0%");
        let mut none = all;
        KEYS.iter().for_each(|key| none.set(key.name, OFF).unwrap());
        assert_eq!(none, Settings { blackhole: Some(Duration::ZERO), ..Settings::default() });
        assert!(none.is_clear());
    }

    #[test]
    fn every_key_that_does_something_is_no_clear_line() {
        for words in [
            "delay=1",
            "jitter=1",
            "loss=1",
            "gemodel=1",
            "duplicate=1",
            "corrupt=1",
            "noise=1",
            "rate=1",
            "speed=1",
            "mtu=1",
        ] {
            assert!(!settings(words).unwrap().is_clear(), "{words}");
        }
        assert!(settings("limit=1 buffer=1 gap=2 distribution=pareto overtake=on").unwrap().is_clear());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (words, expected) in [
            ("colour=red", "colour=red: no such setting; help lists them"),
            ("loss=101%", "loss=101%: expected a percentage"),
            ("loss=1%,2%,3%", "loss=1%,2%,3%: expected a percentage"),
            ("delay=soon", "delay=soon: expected a time"),
            ("distribution=poisson", "distribution=poisson: expected uniform, normal"),
            ("gemodel=1,2,3,4,5", "gemodel=1,2,3,4,5: expected one to four"),
            ("burst=0.5", "burst=0.5: expected a number of frames, 1 or more"),
            ("gap=0", "gap=0: expected"),
            ("rate=0", "rate=0: expected a rate"),
            ("mtu=0", "mtu=0: expected a number of bytes, 1 to 65535"),
            ("overtake=perhaps", "overtake=perhaps: expected on or off"),
            ("gemodel=1 loss=1", "gemodel=1%,99%,100%,0%: it takes the place of loss"),
            ("loss=1,10 burst=2", "burst=2: it takes the place of the correlation"),
            ("burst=2", "burst=2: there is no such loss"),
            ("loss=80 burst=2", "burst=2: there is no such loss"),
            ("reorder=1", "reorder=1%: frames overtake others only where there is a delay"),
        ] {
            let error = settings(words).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{words}: {error}");
        }
    }

    #[test]
    fn a_burst_is_a_channel_with_two_states() {
        let model = settings("loss=1% burst=4").unwrap().bursts().unwrap();
        // 1/4 out of the bad state, 1 % / (4 * 99 %) into it.
        assert_eq!((model.recover, model.worsen.parts()), (Share::parse("25%").unwrap(), 2_525_252));
    }
}
