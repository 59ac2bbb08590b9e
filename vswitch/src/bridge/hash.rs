//! The hash of the forwarding database's keys.
//!
//! A key is 60 bits: a VLAN and an address. The hash is one folded multiplication: the key, whitened with one secret,
//! is multiplied by another, and the halves of the 128-bit product are added without carry. That is a few instructions
//! where SipHash, the standard library's, is well over a hundred, and a frame pays it twice. The secrets are not
//! optional: whoever may choose source addresses could otherwise choose thousands that share a bucket, and make each
//! frame cost a walk through all of them. They come from the bridge's seed, and no hash is ever shown outside.
//!
//! Neighbour: [`super::fdb`] uses it.

use std::hash::{BuildHasher, Hasher};

/// Two secrets.
#[derive(Clone, Copy, Debug)]
pub struct Keyed {
    whitener: u64,
    factor: u64,
}

impl Keyed {
    /// Secrets that derive from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        let whitener = draw(&mut state);
        Self { whitener, factor: draw(&mut state) | 1 }
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folded;

    #[inline]
    fn build_hasher(&self) -> Folded {
        Folded { keyed: *self, hash: 0 }
    }
}

/// The hash of one key, under way.
#[derive(Clone, Copy, Debug)]
pub struct Folded {
    keyed: Keyed,
    hash: u64,
}

impl Hasher for Folded {
    #[inline]
    fn write_u64(&mut self, key: u64) {
        let product = u128::from(self.hash ^ key ^ self.keyed.whitener) * u128::from(self.keyed.factor);
        self.hash = (product >> 64) as u64 ^ product as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.hash
    }
}

/// The next number of a SplitMix64 sequence (Steele, Lea and Flood 2014): it makes two unlike secrets of any seed, 0
/// too.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_a_row_spread_over_the_buckets_under_any_seed() {
        for seed in [0, 1, 0xdead_beef, u64::MAX] {
            let keyed = Keyed::new(seed);
            // The table takes its bucket from the low bits, and a fingerprint from the high ones.
            let mut low = vec![0_u32; 1024];
            let mut high = vec![0_u32; 128];
            for key in 0..65536_u64 {
                let hash = keyed.hash_one(key | 0x5254 << 32);
                low[(hash & 1023) as usize] += 1;
                high[(hash >> 57) as usize] += 1;
            }
            assert!(low.iter().all(|n| (16..=160).contains(n)), "seed {seed}: {:?}", low.iter().max());
            assert!(high.iter().all(|n| (128..=2048).contains(n)), "seed {seed}: {:?}", high.iter().max());
        }
    }

    #[test]
    fn another_seed_gives_another_hash() {
        assert_ne!(Keyed::new(1).hash_one(7_u64), Keyed::new(2).hash_one(7_u64));
    }
}
