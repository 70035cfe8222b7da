//! Whether a conversation stays where its beginning is cached: at a provider that charges less for what it has read before.
//!
//! It moves no request to a target that the route does not treat as equal, that is not well, or that costs as much.

use crate::domain::credits::Credits;
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;

/// How long providers keep a beginning that nobody asks for again (Anthropic by contract, OpenAI and Gemini at least about
/// so long), and where the caller paid for more.
const SHORT_SECONDS: i64 = 300;
const LONG_SECONDS: i64 = 3_600;
/// Providers that cache by themselves begin at this many tokens, and keep whole pieces.
const BY_ITSELF_TOKENS_MIN: u64 = 1_024;
const PIECE_TOKENS: u64 = 128;

/// What a target is believed to have cached of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warm {
    pub cached_tokens: u64,
    /// The last answer's: what the next one may take.
    pub output_tokens: u64,
    lifetime_seconds: i64,
    until: Timestamp,
}

impl Warm {
    /// What a call has left in its provider's cache. `before` is what was believed to be there, and `by_itself` whether
    /// the provider caches without being asked, and without saying so.
    pub fn left_by(usage: &Usage, before: Option<&Warm>, by_itself: bool, now: Timestamp) -> Option<Warm> {
        let written = usage.cache_write_5m_tokens.saturating_add(usage.cache_write_1h_tokens);
        let told = usage.cache_read_tokens.saturating_add(written);
        // Where a belief was wrong, it is not held again for the same reason.
        let may_guess = by_itself && (before.is_none() || told > 0);
        let guessed = match usage.input_total() {
            tokens @ BY_ITSELF_TOKENS_MIN.. if may_guess => tokens - tokens % PIECE_TOKENS,
            _ => 0,
        };
        let cached_tokens = told.max(guessed);
        let was_long = before.is_some_and(|before| before.lifetime_seconds == LONG_SECONDS && written == 0);
        let is_long = usage.cache_write_1h_tokens > 0 || was_long;
        let lifetime_seconds = if is_long { LONG_SECONDS } else { SHORT_SECONDS };
        (cached_tokens > 0).then_some(Warm {
            cached_tokens,
            output_tokens: usage.output_total(),
            lifetime_seconds,
            until: now.plus_seconds(lifetime_seconds),
        })
    }

    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.until
    }
}

/// What a request of about that many tokens is expected to use, with something cached or without.
pub fn expected(input_tokens: u64, output_tokens: u64, warm: Option<&Warm>) -> Usage {
    let cached = warm.map_or(0, |warm| warm.cached_tokens);
    Usage {
        input_tokens: input_tokens.saturating_sub(cached),
        cache_read_tokens: cached,
        output_tokens,
        ..Usage::default()
    }
}

/// A target that could serve as well as the first, and what it is expected to cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bid {
    pub place: usize,
    pub is_warm: bool,
    pub cost: Credits,
}

/// The warm target that is the cheapest, where that is cheaper than the one whose turn it is.
pub fn cheaper(first: Credits, others: impl IntoIterator<Item = Bid>) -> Option<Bid> {
    others.into_iter().filter(|bid| bid.is_warm && bid.cost < first).min_by_key(|bid| bid.cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);

    fn usage(input: u64, read: u64, write_5m: u64, write_1h: u64) -> Usage {
        Usage {
            input_tokens: input,
            cache_read_tokens: read,
            cache_write_5m_tokens: write_5m,
            cache_write_1h_tokens: write_1h,
            output_tokens: 70,
            ..Usage::default()
        }
    }

    #[test]
    fn a_call_leaves_what_it_read_and_wrote_for_as_long_as_it_was_paid_for() {
        for (claim, told, by_itself, expected) in [
            ("nothing was cached", usage(5_000, 0, 0, 0), false, None),
            ("it wrote", usage(10, 0, 4_000, 0), false, Some((4_000, 300))),
            ("it read and wrote on", usage(10, 4_000, 90, 0), false, Some((4_090, 300))),
            ("it paid for an hour", usage(10, 0, 90, 4_000), false, Some((4_090, 3_600))),
            ("a provider caches by itself", usage(5_000, 0, 0, 0), true, Some((4_992, 300))),
            ("and more than it says", usage(1_000, 4_096, 0, 0), true, Some((4_992, 300))),
            ("but nothing that is short", usage(1_023, 0, 0, 0), true, None),
        ] {
            let left = Warm::left_by(&told, None, by_itself, NOW);

            let expected = expected.map(|(cached_tokens, lifetime_seconds)| Warm {
                cached_tokens,
                output_tokens: 70,
                lifetime_seconds,
                until: NOW.plus_seconds(lifetime_seconds),
            });
            assert_eq!(left, expected, "{claim}");
        }
    }

    #[test]
    fn what_was_paid_for_an_hour_is_read_for_an_hour() {
        let hour = Warm::left_by(&usage(10, 0, 0, 4_000), None, false, NOW).expect("wrote");
        let later = NOW.plus_seconds(600);

        let read = Warm::left_by(&usage(10, 4_000, 0, 0), Some(&hour), false, later).expect("read");
        let short = Warm::left_by(&usage(10, 4_000, 50, 0), Some(&hour), false, later).expect("read");

        assert!(!read.is_over(later.plus_seconds(3_599)) && read.is_over(later.plus_seconds(3_600)));
        assert!(short.is_over(later.plus_seconds(300)), "the new end is gone by then");
    }

    #[test]
    fn a_belief_that_was_wrong_is_given_up() {
        let believed = Warm::left_by(&usage(5_000, 0, 0, 0), None, true, NOW).expect("a guess");

        assert_eq!(Warm::left_by(&usage(6_000, 0, 0, 0), Some(&believed), true, NOW), None);
        assert!(Warm::left_by(&usage(1_000, 4_992, 0, 0), Some(&believed), true, NOW).is_some());
    }

    #[test]
    fn a_warm_target_takes_the_turn_only_where_it_is_cheaper() {
        let bid = |place, is_warm, credits: i64| Bid { place, is_warm, cost: Credits::from_whole(credits) };
        let first = Credits::from_whole(10);

        assert_eq!(cheaper(first, [bid(1, true, 10), bid(2, false, 1)]), None);
        assert_eq!(
            cheaper(first, [bid(1, true, 9), bid(2, true, 8), bid(3, true, 9)]),
            Some(bid(2, true, 8))
        );
        assert_eq!(cheaper(first, []), None);
    }

    #[test]
    fn what_is_cached_is_expected_to_be_read() {
        let warm = Warm::left_by(&usage(10, 4_000, 0, 0), None, false, NOW).expect("read");

        assert_eq!(expected(4_500, 70, Some(&warm)), usage(500, 4_000, 0, 0));
        assert_eq!(expected(3_000, 70, Some(&warm)), usage(0, 4_000, 0, 0), "the estimate was low");
        assert_eq!(expected(4_500, 70, None), usage(4_500, 0, 0, 0));
    }
}
