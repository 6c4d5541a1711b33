//! Which chunks are there and which are missing: no I/O.

use crate::caibx::Index;
use crate::chunk::ChunkId;

/// A chunk that is needed and not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Its first place in the index.
    pub number: usize,
    /// Its id.
    pub id: ChunkId,
    /// Its plain length in bytes.
    pub length: u32,
}

/// The state of an assembly.
#[derive(Debug)]
pub struct Plan {
    index: Index,
    done: Vec<bool>,
    missing: usize,
    /// Numbers of all chunks, by id and then by place.
    by_id: Vec<u32>,
    /// The first chunk that is missing.
    first_missing: usize,
}

impl Plan {
    /// Nothing is there yet.
    pub fn new(index: Index) -> Self {
        let count = index.len();
        // An index of 16 MiB has 419,000 chunks.
        let mut by_id: Vec<u32> = (0..count).map(|n| u32::try_from(n).unwrap_or(u32::MAX)).collect();
        by_id.sort_unstable_by_key(|n| (index.id(*n as usize), *n));
        Self { index, done: vec![false; count], missing: count, by_id, first_missing: 0 }
    }

    /// The component's index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// How many chunks are missing, a repeated one counted each time.
    pub fn missing_chunks(&self) -> usize {
        self.missing
    }

    /// Bytes that are there.
    pub fn done_bytes(&self) -> u64 {
        (0..self.done.len()).filter(|n| self.done[*n]).map(|n| u64::from(self.index.entry(n).length)).sum()
    }

    /// Missing chunks in the order of the component, each id once.
    pub fn missing(&self) -> impl Iterator<Item = Missing> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let missing = self.next_missing(from)?;
            from = missing.number + 1;
            Some(missing)
        })
    }

    /// The first missing chunk at place `from` or later that was not missing before it too.
    pub fn next_missing(&self, from: usize) -> Option<Missing> {
        (from.max(self.first_missing)..self.done.len()).find_map(|number| {
            let entry = self.index.entry(number);
            let first = self.first_place(&entry.id)?;
            (!self.done[number] && first == number).then_some(Missing {
                number,
                id: entry.id,
                length: entry.length,
            })
        })
    }

    /// The length of a chunk of this component.
    pub fn length_of(&self, id: &ChunkId) -> Option<u32> {
        self.places(id).next().map(|number| self.index.entry(number).length)
    }

    /// Whether a chunk of that id and length is needed still.
    pub fn wants(&self, id: &ChunkId, length: u32) -> bool {
        self.places(id).any(|number| !self.done[number] && self.index.entry(number).length == length)
    }

    /// The next place, and its offset, that a chunk has to be written to.
    pub(super) fn next_place(&self, id: &ChunkId) -> Option<(usize, u64)> {
        let number = self.first_place(id)?;
        Some((number, self.index.entry(number).offset))
    }

    pub(super) fn set(&mut self, number: usize) {
        if !std::mem::replace(&mut self.done[number], true) {
            self.missing -= 1;
        }
        while self.done.get(self.first_missing) == Some(&true) {
            self.first_missing += 1;
        }
    }

    /// Bytes from the start that are there without a gap.
    pub(super) fn contiguous(&self) -> u64 {
        match self.first_missing.checked_sub(1) {
            None => 0,
            Some(last) => {
                let entry = self.index.entry(last);
                entry.offset + u64::from(entry.length)
            }
        }
    }

    fn first_place(&self, id: &ChunkId) -> Option<usize> {
        self.places(id).find(|number| !self.done[*number])
    }

    fn places(&self, id: &ChunkId) -> impl Iterator<Item = usize> + '_ {
        let start = self.by_id.partition_point(|n| self.index.id(*n as usize) < *id);
        let id = *id;
        self.by_id[start..].iter().map(|n| *n as usize).take_while(move |n| self.index.id(*n) == id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::caibx::{ChunkSizes, IndexBuilder};
    use crate::chunk::id_of;

    fn plan(names: &[u8]) -> Plan {
        let mut builder = IndexBuilder::new(ChunkSizes::default());
        names.iter().for_each(|name| builder.push(&id_of(&[*name]), 10 + u32::from(*name)));
        Plan::new(builder.finish().unwrap())
    }

    proptest! {
        #[test]
        fn setting_every_missing_chunk_completes(names in prop::collection::vec(0u8..6, 0..40), order in any::<u64>()) {
            let mut plan = plan(&names);
            let mut rounds = 0;
            while plan.missing_chunks() > 0 {
                let missing: Vec<_> = plan.missing().collect();
                let unique: std::collections::HashSet<_> = missing.iter().map(|m| m.id).collect();
                prop_assert_eq!(unique.len(), missing.len());
                let pick = missing[(order.wrapping_mul(rounds + 1) % missing.len() as u64) as usize];
                prop_assert!(plan.wants(&pick.id, pick.length));
                while let Some((number, offset)) = plan.next_place(&pick.id) {
                    prop_assert_eq!(plan.index().entry(number).offset, offset);
                    plan.set(number);
                }
                prop_assert!(!plan.wants(&pick.id, pick.length));
                let gap = plan.missing().next().map_or(plan.index().component_length(), |m| plan.index().entry(m.number).offset);
                prop_assert_eq!(plan.contiguous(), gap);
                rounds += 1;
            }
            prop_assert_eq!(plan.done_bytes(), plan.index().component_length());
            prop_assert_eq!(plan.missing().next(), None);
        }
    }

    #[test]
    fn a_foreign_chunk_is_not_wanted() {
        let plan = plan(&[1, 2]);
        assert_eq!(plan.length_of(&id_of(b"x")), None);
        assert!(!plan.wants(&id_of(&[1]), 12), "another length");
    }
}
