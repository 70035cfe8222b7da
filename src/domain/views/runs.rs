//! An index from hashes to positions that is written in the log's order and read by hash.
//!
//! A tree that is sorted by hash is written all over by every batch. Here a batch extends one row: the entries of a block
//! of positions, as they came. Sixteen blocks that are full become one of the next level, whose entries are sorted and cut
//! into sixteen times as many parts by the first digits of their hash. Who looks a hash up reads one part of each block.
//! What rows there are depends on the last position alone, not on how events were batched, so that two folds of one log
//! compare equal (I7).

use std::collections::BTreeMap;
use std::ops::Range;

/// Positions of a block of level 0.
const BLOCK_POSITIONS: i64 = 4_096;
/// Blocks that become one of the next level, and parts into which each part is then cut: a digit of the hash.
const FAN: i64 = 16;
/// Above it blocks only grow in number: one of a million positions costs a look-up the reading of one row.
const LEVEL_MAX: u32 = 2;
/// The hash, and the offset in the block in four bytes.
const ENTRY_BYTES: usize = 12;

/// What an entry is found by: the first bytes of a cryptographic hash, so that they are spread evenly. Two things may share
/// one; the event at the position says which it is.
pub type ShortHash = [u8; 8];

/// Entries to add, by block of level 0.
pub type Blocks = BTreeMap<i64, Vec<u8>>;

/// A part of a level: which row of a block holds a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run(i64);

/// A block that is full: rows that become others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    level: u32,
    /// Of the level that it makes.
    block: i64,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub run: Run,
    pub block: i64,
    pub entries: Vec<u8>,
}

impl Run {
    /// The runs that together hold a hash, one a level.
    pub fn of(hash: ShortHash) -> [Run; LEVEL_MAX as usize + 1] {
        let prefix = i64::from(u32::from_be_bytes([0, 0, 0, hash[0]]));
        [Run(1), Run(FAN + prefix / FAN), Run(FAN * FAN + prefix)]
    }

    /// As the store knows it: level 0 is 1, level 1 is 16 to 31, level 2 is 256 to 511.
    pub fn number(self) -> i64 {
        self.0
    }

    pub fn numbered(number: i64) -> Run {
        Run(number)
    }

    fn level(self) -> u32 {
        (0..LEVEL_MAX).find(|level| self.0 < parts(level + 1)).unwrap_or(LEVEL_MAX)
    }
}

impl Compaction {
    /// The compactions that are due once everything up to a position is added, where it was up to an earlier one before; in
    /// their order.
    pub fn due(before: i64, position: i64) -> impl Iterator<Item = Compaction> {
        (1..=LEVEL_MAX).flat_map(move |level| {
            let full = |position: i64| (position + 1).div_euclid(positions(level));
            (full(before)..full(position)).map(move |block| Compaction { level, block })
        })
    }

    /// The runs whose rows it replaces, each by itself.
    pub fn sources(self) -> impl Iterator<Item = Run> {
        let parts = parts(self.level - 1);
        (parts..2 * parts).map(Run)
    }

    /// The blocks whose rows it replaces.
    pub fn blocks(self) -> Range<i64> {
        self.block * FAN..(self.block + 1) * FAN
    }

    /// What the rows of one source become.
    pub fn apply(self, source: Run, rows: &[Row]) -> Vec<Row> {
        let start = self.block * positions(self.level);
        let moved = rows.iter().flat_map(|row| {
            let shift = row.block * positions(self.level - 1) - start;
            row.entries.chunks_exact(ENTRY_BYTES).filter_map(move |entry| {
                let (hash, offset) = read(entry)?;
                Some((hash, offset + shift))
            })
        });
        let mut entries: Vec<(ShortHash, i64)> = moved.collect();
        entries.sort_unstable();
        let mut parts: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
        for (hash, offset) in entries {
            write(parts.entry(digit(hash, self.level - 1)).or_default(), hash, offset);
        }
        let row = |(digit, entries)| Row { run: Run(source.0 * FAN + digit), block: self.block, entries };
        parts.into_iter().map(row).collect()
    }
}

/// The block of each level that holds a position.
pub fn blocks_of(position: i64) -> [i64; LEVEL_MAX as usize + 1] {
    [0, 1, 2].map(|level| position.div_euclid(positions(level)))
}

/// Adds an entry; positions come in order.
pub fn add(blocks: &mut Blocks, hash: ShortHash, position: i64) {
    let entries = blocks.entry(position.div_euclid(BLOCK_POSITIONS)).or_default();
    write(entries, hash, position.rem_euclid(BLOCK_POSITIONS));
}

/// The row of level 0 of a block.
pub fn row(block: i64, entries: &[u8]) -> Row {
    Row { run: Run(1), block, entries: entries.to_vec() }
}

impl Row {
    /// Positions under a hash, in order.
    pub fn find(&self, hash: ShortHash) -> Vec<i64> {
        let all = self.entries.chunks_exact(ENTRY_BYTES);
        let start = match self.run.level() {
            0 => 0,
            _ => self.sorted_start(hash),
        };
        let found = all.skip(start).filter_map(read);
        let found: Box<dyn Iterator<Item = (ShortHash, i64)>> = match self.run.level() {
            0 => Box::new(found.filter(|(found, _)| *found == hash)),
            _ => Box::new(found.take_while(|(found, _)| *found == hash)),
        };
        found.map(|(_, offset)| self.first_position() + offset).collect()
    }

    /// Every hash at a position from `from` on.
    pub fn hashes_since(&self, from: i64) -> impl Iterator<Item = ShortHash> + '_ {
        let first = self.first_position();
        let all = self.entries.chunks_exact(ENTRY_BYTES).filter_map(read);
        all.filter(move |(_, offset)| first + offset >= from).map(|(hash, _)| hash)
    }

    fn first_position(&self) -> i64 {
        self.block * positions(self.run.level())
    }

    fn sorted_start(&self, hash: ShortHash) -> usize {
        let (mut low, mut high) = (0, self.entries.len() / ENTRY_BYTES);
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.entries.get(middle * ENTRY_BYTES..).unwrap_or_default();
            if entry.get(..hash.len()).is_some_and(|found| found < &hash[..]) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Positions of a block of a level.
fn positions(level: u32) -> i64 {
    BLOCK_POSITIONS * parts(level)
}

fn parts(level: u32) -> i64 {
    FAN.pow(level)
}

/// A hexadecimal digit of a hash.
fn digit(hash: ShortHash, place: u32) -> i64 {
    let shift = 60 - 4 * place;
    i64::try_from(u64::from_be_bytes(hash) >> shift & 0xf).unwrap_or_default()
}

fn read(entry: &[u8]) -> Option<(ShortHash, i64)> {
    let (hash, offset) = entry.split_first_chunk::<8>()?;
    Some((*hash, i64::from(u32::from_be_bytes(offset.try_into().ok()?))))
}

fn write(entries: &mut Vec<u8>, hash: ShortHash, offset: i64) {
    entries.extend_from_slice(&hash);
    // Below the positions of the highest level's block, so it fits.
    entries.extend_from_slice(&u32::try_from(offset).unwrap_or(u32::MAX).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rows as a store keeps them.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    struct Rows(BTreeMap<(Run, i64), Vec<u8>>);

    impl Rows {
        /// Adds everything up to a position, in one batch.
        fn fold(&mut self, before: i64, position: i64, hash_of: impl Fn(i64) -> Option<ShortHash>) {
            let mut blocks = Blocks::new();
            for at in before + 1..=position {
                if let Some(hash) = hash_of(at) {
                    add(&mut blocks, hash, at);
                }
            }
            for (block, entries) in blocks {
                self.0.entry((Run(1), block)).or_default().extend(entries);
            }
            for due in Compaction::due(before, position) {
                for source in due.sources() {
                    let is_source =
                        |(run, block): &(Run, i64)| *run == source && due.blocks().contains(block);
                    let rows = self.0.extract_if(.., |key, _| is_source(key));
                    let rows: Vec<Row> =
                        rows.map(|((run, block), entries)| Row { run, block, entries }).collect();
                    for Row { run, block, entries } in due.apply(source, &rows) {
                        self.0.insert((run, block), entries);
                    }
                }
            }
        }

        fn find(&self, hash: ShortHash) -> Vec<i64> {
            let runs = Run::of(hash);
            let held = self.0.iter().filter(|((run, _), _)| runs.contains(run));
            let rows = held.map(|((run, block), entries)| Row {
                run: *run,
                block: *block,
                entries: entries.clone(),
            });
            let mut found: Vec<i64> = rows.flat_map(|row| row.find(hash)).collect();
            found.sort_unstable();
            found
        }
    }

    /// Well spread, and each shared by two positions that lie far apart.
    fn hash_of(position: i64) -> Option<ShortHash> {
        let mixed = (position % 700_000).unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (position % 13 == 0).then_some((mixed ^ (mixed >> 29)).to_be_bytes())
    }

    const END: i64 = 1_200_000;

    fn folded(mut cuts: Vec<i64>) -> Rows {
        cuts.push(END);
        cuts.sort_unstable();
        let (mut rows, mut before) = (Rows::default(), 0);
        for cut in cuts {
            rows.fold(before, cut, hash_of);
            before = cut;
        }
        rows
    }

    #[test]
    fn every_position_is_found_in_whatever_level_it_stands() {
        let rows = folded(vec![70_000, 70_001, 500_000]);
        let levels: std::collections::BTreeSet<u32> = rows.0.keys().map(|(run, _)| run.level()).collect();
        assert_eq!(levels.into_iter().collect::<Vec<_>>(), [0, 1, 2]);

        for position in (13..END).step_by(13 * 97).chain([13, END - END % 13]) {
            let Some(hash) = hash_of(position) else { continue };
            let all: Vec<i64> = [position % 700_000, position % 700_000 + 700_000]
                .into_iter()
                .filter(|at| (1..=END).contains(at) && hash_of(*at) == Some(hash))
                .collect();
            assert_eq!(rows.find(hash), all);
        }
        assert_eq!(rows.find([0xab; 8]), [0_i64; 0]);
    }

    #[test]
    fn a_row_says_what_came_since_a_position() {
        let rows = folded(vec![]);
        let since = |from: i64| {
            let rows = rows.0.iter().map(|((run, block), entries)| Row {
                run: *run,
                block: *block,
                entries: entries.clone(),
            });
            rows.map(|row| row.hashes_since(from).count()).sum::<usize>()
        };

        assert_eq!(since(0), (1..=END).filter_map(hash_of).count());
        assert_eq!(since(END - 10_000), (END - 10_000..=END).filter_map(hash_of).count());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn i7_rows_do_not_depend_on_how_the_log_was_cut(cuts in prop::collection::vec(1..END, 1..40)) {
            prop_assert_eq!(folded(cuts), folded(vec![]));
        }
    }
}
