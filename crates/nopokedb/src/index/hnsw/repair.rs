//! Taking dead rows out of the graph, so that walks no longer lead through them.
//!
//! The scheme is FreshDiskANN's consolidation (Singh et al., arXiv 2105.09613, algorithm 4): a node that links to dead rows
//! takes their links in their place and chooses anew. Here it keeps the tree (see [`super::graph`]) whole, in three passes:
//! (1) each live child of a dead node gets a kept link from a live, older node, or becomes a root; (2) dead entry points
//! are replaced by live nodes near them; (3) each live node drops its links to dead ones. After the first two passes every
//! live node is reachable through live nodes alone, so the third may go in any order and stop at any point.
//!
//! A node stays while a row of its chain lives.
//!
//! Invariants:
//! 1. Interrupted after any batch, the graph is sound; repairing again goes on.
//! 2. The outcome does not depend on the number of threads.
//!
//! Threading: as absorbing, under the same lock.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::graph::{KEPT, slot_of};
use super::insert::{Absorb, Builder, Worker};
use crate::error::Result;
use crate::index::topk::by_distance;

/// Nodes per step of the sweep, between two looks at `stop`.
const STEP: usize = 512;
/// The most candidates a repaired node chooses among: its links, and what its dead neighbours linked to.
const MAX_CANDIDATES: usize = 128;

impl Absorb<'_> {
    /// Takes the rows that are not live out of the graph; returns how many nodes got new links. Stops early when told.
    pub(crate) fn repair(
        &self,
        is_live: &(dyn Fn(u32) -> bool + Sync),
        stop: &AtomicBool,
        builder: &mut Builder,
    ) -> Result<usize> {
        let len = self.graph.len();
        let mut stays: Vec<bool> = (0..len).map(|slot| self.chain_lives(slot, is_live)).collect();
        let heirs = self.heirs(&mut stays);
        for node in (0..len).filter(|&s| !stays[s as usize]) {
            if stop.load(Relaxed) {
                return Ok(0);
            }
            self.rehome_children(node, &stays, builder.first_worker())?;
        }
        for (i, heir) in heirs {
            self.graph.set_entry(i, heir);
        }
        let broken = |slot: &u32| {
            stays[*slot as usize] && self.graph.links(*slot).any(|w| slot_of(w) < len && !stays[slot_of(w) as usize])
        };
        let nodes: Vec<u32> = (0..len).filter(broken).collect();
        let mut done = 0;
        for step in nodes.chunks(STEP) {
            if stop.load(Relaxed) {
                break;
            }
            // All read before any writes, so that the order within a step does not matter.
            let lists = self.in_parallel(builder.workers(self.threads), step.len(), |worker, i| {
                self.relink(worker, step[i], &stays)
            })?;
            for (&slot, words) in step.iter().zip(&lists) {
                self.graph.set_links(slot, words);
            }
            done += step.len();
        }
        Ok(done)
    }

    /// For each dead entry point (by number) a live node near it, or another live entry point. One that has neither stays.
    fn heirs(&self, stays: &mut [bool]) -> Vec<(u32, u32)> {
        let entries: Vec<u32> = self.graph.entries().collect();
        let mut taken: HashSet<u32> = entries.iter().copied().collect();
        let mut spare = entries.iter().copied().find(|&e| stays[e as usize]);
        let mut heirs = Vec::new();
        for (i, entry) in (0..).zip(entries) {
            if stays[entry as usize] {
                continue;
            }
            let near = || self.graph.links(entry).map(slot_of);
            let beyond = || near().flat_map(|n| self.graph.links(n).map(slot_of));
            let fresh = near().chain(beyond()).find(|n| stays[*n as usize] && !taken.contains(n));
            match fresh.or(spare) {
                Some(heir) => {
                    taken.insert(heir);
                    spare = Some(heir);
                    heirs.push((i, heir));
                }
                None => stays[entry as usize] = true,
            }
        }
        heirs
    }

    fn chain_lives(&self, slot: u32, is_live: &(dyn Fn(u32) -> bool + Sync)) -> bool {
        std::iter::successors(Some(slot), |&s| self.graph.twin(s)).any(is_live)
    }

    /// Gives each child of a node that goes a kept link from one that stays, or makes it a root.
    fn rehome_children(&self, node: u32, stays: &[bool], w: &mut Worker) -> Result<()> {
        let words: Vec<u32> = self.graph.links(node).collect();
        let leaving = |word: u32| word & KEPT != 0 && stays.get(slot_of(word) as usize) == Some(&true);
        for child in words.iter().copied().filter(|&word| leaving(word)).map(slot_of) {
            let parent = self.graph.links(child).map(slot_of).find(|&p| {
                let seats = self.graph.capacity() / 2;
                p < child && stays[p as usize] && self.graph.links(p).filter(|w| w & KEPT != 0).count() < seats
            });
            match parent {
                Some(parent) => self.adopt(parent, child, w)?,
                None => self.graph.add_entry(child),
            }
        }
        // The node keeps its links for those who are walking through it, but is nobody's parent any more.
        let disowned: Vec<u32> = words.iter().map(|&w| if leaving(w) { slot_of(w) } else { w }).collect();
        self.graph.set_links(node, &disowned);
        Ok(())
    }

    /// Adds a kept link, in place of another if the list is full.
    fn adopt(&self, parent: u32, child: u32, w: &mut Worker) -> Result<()> {
        w.words.clear();
        w.words.extend(self.graph.links(parent));
        match w.words.iter_mut().find(|word| slot_of(**word) == child) {
            Some(word) => *word |= KEPT,
            None => w.words.push(child | KEPT),
        }
        if w.words.len() > self.graph.capacity() {
            self.prune(w, parent)?;
        }
        self.graph.set_links(parent, &w.words);
        Ok(())
    }

    /// The new links of a node: its own that stay, and the best of what the others led to.
    fn relink(&self, w: &mut Worker, node: u32, stays: &[bool]) -> Result<Vec<u32>> {
        w.words.clear();
        let old: Vec<u32> = self.graph.links(node).collect();
        let len = stays.len();
        let stays = |word: &u32| stays.get(slot_of(*word) as usize) == Some(&true);
        w.words.extend(old.iter().copied().filter(stays));
        let mut known: HashSet<u32> = old.iter().map(|&word| slot_of(word)).collect();
        known.insert(node);
        // Where whole stretches are dead, what lies beyond them is several links away.
        let mut dead: Vec<u32> = old.iter().filter(|&word| !stays(word)).map(|&word| slot_of(word)).collect();
        let mut done = 0;
        while done < dead.len() && w.words.len() < MAX_CANDIDATES {
            for next in self.graph.links(dead[done]).map(slot_of).filter(|n| (*n as usize) < len && known.insert(*n)) {
                if stays(&next) { w.words.push(next) } else { dead.push(next) }
            }
            done += 1;
        }
        if !self.rows.probe_row(node, &mut w.probe)? {
            w.words.truncate(self.graph.capacity());
            return Ok(w.words.clone());
        }
        w.slots.clear();
        w.slots.extend(w.words.iter().map(|&word| slot_of(word)));
        self.rows.distances(&mut w.probe, &w.slots, &mut w.distances)?;
        w.candidates.clear();
        w.candidates.extend(w.distances.iter().copied().zip(w.words.iter().copied()));
        // Kept links must stay among the candidates; the rest compete by distance.
        w.candidates.sort_unstable_by(|a, b| (a.1 & KEPT == 0).cmp(&(b.1 & KEPT == 0)).then(by_distance(a, b)));
        w.candidates.truncate(MAX_CANDIDATES.max(self.graph.capacity()));
        w.candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(slot_of(a.1).cmp(&slot_of(b.1))));
        w.selector.select(&self.rows, &w.candidates, self.graph.capacity(), self.params.alpha, &mut w.taken)?;
        Ok(w.taken.iter().map(|t| t.1).collect())
    }
}
