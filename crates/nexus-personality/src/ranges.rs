//! A set of addresses, as ranges that do not touch.

use std::collections::BTreeMap;

/// The set: starts to ends.
#[derive(Debug, Default)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Add `[start, end)`; how many bytes were not there yet.
    pub fn insert(&mut self, start: u64, end: u64) -> u64 {
        if start >= end {
            return 0;
        }
        let before = self.bytes_in(start, end);
        let (mut low, mut high) = (start, end);
        // Neighbours that it overlaps or touches become one with it.
        while let Some((s, e)) = (self.0.range(..=high).next_back())
            .map(|(s, e)| (*s, *e))
            .filter(|(_, e)| *e >= low)
        {
            self.0.remove(&s);
            low = low.min(s);
            high = high.max(e);
        }
        self.0.insert(low, high);
        end - start - before
    }

    /// Take `[start, end)` away; how many bytes were there.
    pub fn remove(&mut self, start: u64, end: u64) -> u64 {
        if start >= end {
            return 0;
        }
        let mut gone = 0;
        while let Some((s, e)) = (self.0.range(..end).next_back())
            .map(|(s, e)| (*s, *e))
            .filter(|(_, e)| *e > start)
        {
            self.0.remove(&s);
            gone += e.min(end) - s.max(start);
            if e > end {
                self.0.insert(end, e);
            }
            if s < start {
                self.0.insert(s, start);
            }
        }
        gone
    }

    /// How many bytes of `[start, end)` are in the set.
    #[must_use]
    pub fn bytes_in(&self, start: u64, end: u64) -> u64 {
        let first = self.0.range(..start).next_back();
        first
            .into_iter()
            .chain(self.0.range(start..end.max(start)))
            .map(|(s, e)| (*e).min(end).saturating_sub((*s).max(start)))
            .sum()
    }

    /// All of it, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(s, e)| e - s).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a set of single pages, over many random steps.
    #[test]
    fn it_counts_as_a_set_of_single_pages_does() {
        let mut state = 7_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut ranges, mut plain) = (Ranges::default(), std::collections::BTreeSet::new());
        for _ in 0..20_000 {
            let start = next(64);
            let end = start + next(12);
            let inside = (start..end).filter(|p| plain.contains(p)).count() as u64;
            assert_eq!(ranges.bytes_in(start, end), inside);
            if next(2) == 0 {
                assert_eq!(ranges.insert(start, end), end - start - inside);
                plain.extend(start..end);
            } else {
                assert_eq!(ranges.remove(start, end), inside);
                plain.retain(|p| !(start..end).contains(p));
            }
            assert_eq!(ranges.total(), plain.len() as u64);
            assert!(
                ranges
                    .0
                    .iter()
                    .zip(ranges.0.iter().skip(1))
                    .all(|(a, b)| a.1 < b.0)
            );
        }
    }
}
