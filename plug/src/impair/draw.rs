//! Chance that can be repeated: what is drawn for a frame depends on the seed, the direction, the purpose and the
//! frame's number alone.
//!
//! The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
//! with Stafford's thirteenth mixing function): a counter that is mixed into numbers, so any place of a sequence can be
//! had at once. Each purpose has a sequence of its own, whose nth number begins another: the one from which everything
//! is drawn that this purpose needs for frame n. So no decision takes numbers away from another.
//!
//! Neighbours: `fate`, which draws; `units::Share`, a probability.

/// What numbers are drawn for. The discriminants are part of what a seed means: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Whether a frame is lost.
    Loss = 1,
    /// How long it is delayed.
    Delay = 2,
    /// How long its duplicate is delayed.
    DelayOfDuplicate = 3,
    /// Whether it overtakes.
    Reorder = 4,
    /// Whether it is duplicated.
    Duplicate = 5,
    /// Whether a bit of it is damaged, and which.
    Corrupt = 6,
    /// Which of its bits the noise of the line damages.
    Noise = 7,
}

/// The numbers for one frame and one purpose.
#[derive(Clone, Debug)]
pub struct Draws(u64);

/// The increment of the counter: odd, and 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Draws {
    /// Those of frame `number`. `direction` keeps the two ways through a link apart.
    #[must_use]
    pub fn new(seed: u64, direction: u64, purpose: Purpose, number: u64) -> Self {
        let sequence = mix(mix(seed).wrapping_add((direction << 8 | purpose as u64).wrapping_mul(GAMMA)));
        Self(mix(sequence.wrapping_add(number.wrapping_mul(GAMMA))))
    }

    /// The next number; all 64 bits are random.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: its bias is below bound / 2^64.
        #[allow(clippy::cast_possible_truncation, reason = "the high half of 128 bits")]
        let high = ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64;
        high
    }

    /// A number above 0 and not above 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits are left")]
    pub fn unit(&mut self) -> f64 {
        ((self.number() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// A number of the normal distribution with mean 0 and standard deviation 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.unit().ln()).sqrt(), std::f64::consts::TAU * self.unit());
        radius * angle.cos()
    }
}

/// Makes a counter's states into numbers without a visible order.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The sequence that begins with state 1234567, as published with other implementations.
        let mut draws = Draws(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| draws.number()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn seeds_directions_purposes_and_frames_have_numbers_of_their_own() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..10 {
            for direction in 0..2 {
                for purpose in [Purpose::Loss, Purpose::Delay, Purpose::Noise] {
                    for number in 0..100 {
                        assert!(seen.insert(Draws::new(seed, direction, purpose, number).number()));
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_below_a_bound_are_all_there_and_alike() {
        let mut counts = [0_u32; 10];
        for number in 0..100_000 {
            counts[Draws::new(1, 0, Purpose::Corrupt, number).below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_700..10_300).contains(count)), "{counts:?}");
    }

    #[test]
    fn normal_numbers_have_mean_0_and_deviation_1() {
        let numbers: Vec<f64> = (0..100_000).map(|n| Draws::new(1, 0, Purpose::Delay, n).normal()).collect();
        let mean = numbers.iter().sum::<f64>() / 1e5;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
