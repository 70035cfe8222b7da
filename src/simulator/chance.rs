//! Chance that repeats: every draw follows from the seed and the request's number.

/// A splitmix64 sequence. The constants are the published ones of the generator (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn of(seed: u64, number: u64) -> Chance {
        let mut outer = Chance(seed);
        Chance(outer.draw() ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 when the limit is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw().checked_rem(limit).unwrap_or(0)
    }

    /// A number from 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of the given; the caller's list is never empty.
    pub fn pick<'a>(&mut self, among: &[&'a str]) -> &'a str {
        among.get(self.below(among.len() as u64) as usize).copied().unwrap_or_default()
    }

    /// A provider-like identifier: the prefix and 24 letters and digits.
    pub fn identifier(&mut self, prefix: &str) -> String {
        const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
        let tail = (0..24).map(|_| ALPHABET[self.below(ALPHABET.len() as u64) as usize] as char);
        prefix.chars().chain(tail).collect()
    }
}

/// A stable number for a text (FNV-1a), so that the same text always gets the same embedding.
pub fn number_of(text: &[u8]) -> u64 {
    text.iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_and_number_always_draw_the_same() {
        let draws = |seed, number| {
            let mut chance = Chance::of(seed, number);
            (chance.draw(), chance.identifier("x-"), chance.unit())
        };

        assert_eq!(draws(7, 3), draws(7, 3));
        assert_ne!(draws(7, 3), draws(7, 4));
        assert_ne!(draws(7, 3), draws(8, 3));
    }

    #[test]
    fn units_fill_their_range_evenly() {
        let mut chance = Chance::of(1, 1);
        let mean = (0..10_000).map(|_| chance.unit()).sum::<f64>() / 10_000.0;
        assert!((0.48..0.52).contains(&mean), "{mean}");
    }
}
