//! What a power loss does to the operations that were not synced, and which of the many possibilities to try.

use std::ops::Range;

use super::image::{Part, Pending};

/// The unit that the medium writes whole or not at all.
pub const SECTOR: usize = 512;
/// The largest unit that a write cut short may ruin as a whole, bytes of earlier writes included.
pub const BLOCK: usize = 4096;

/// Decides over each pending part (in the order of `SimDisk::pending_at`) at a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Which parts survive.
    pub keep: Keep,
    /// One write that survives in pieces, whatever `keep` says of it.
    pub torn: Option<Torn>,
    /// What is read where a file has grown and the bytes did not survive.
    pub holes: Holes,
    /// Names of one directory survive in their order, as with a journaling file system: a name op survives only if all
    /// earlier ones of its directory do. Otherwise any subset of them survives.
    pub ordered_names: bool,
}

impl Fate {
    /// Nothing that was not synced survives.
    pub const NOTHING: Fate = Fate::keeping(Keep::Nothing);
    /// Everything survives.
    pub const EVERYTHING: Fate = Fate::keeping(Keep::Everything);

    /// A fate with nothing torn, zeros in holes, and names in any order.
    pub const fn keeping(keep: Keep) -> Fate {
        Fate { keep, torn: None, holes: Holes::Zeros, ordered_names: false }
    }

    /// Everything before part `unit` survives, `unit` itself in pieces, and what came with its write (its growth).
    pub const fn torn(unit: usize, cut: Cut) -> Fate {
        Fate { torn: Some(Torn { unit, cut }), ..Fate::keeping(Keep::Prefix(unit + 2)) }
    }

    /// The same fate with old garbage instead of zeros in holes.
    pub const fn with_noise(self) -> Fate {
        Fate { holes: Holes::Noise, ..self }
    }
}

/// A choice among the pending parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// The first so many.
    Prefix(usize),
    /// This one.
    Only(usize),
    /// All but this one.
    AllBut(usize),
    /// Those whose bit is set (part 64 and later: none).
    Mask(u64),
    /// About half, chosen by a seed.
    Random(u64),
}

impl Keep {
    pub(super) fn keeps(self, i: usize) -> bool {
        match self {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::Prefix(n) => i < n,
            Keep::Only(one) => i == one,
            Keep::AllBut(one) => i != one,
            Keep::Mask(bits) => i < 64 && bits >> i & 1 == 1,
            Keep::Random(seed) => mix(seed ^ mix(i as u64)) & 1 == 1,
        }
    }
}

/// A write that survives in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Its number among the pending parts; it is a [`Part::Data`].
    pub unit: usize,
    /// The pieces.
    pub cut: Cut,
}

/// Which pieces of a write survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Those in the first so many sectors it touches.
    FirstSectors(usize),
    /// Those after the first so many sectors.
    AfterSectors(usize),
    /// Every other sector, the second one first.
    EveryOther,
    /// The first so many bytes: harsher than sectors, for media that tear inside them.
    FirstBytes(usize),
    /// None, and the block in which the write begins is garbage as a whole, bytes of earlier writes before it included.
    Shred,
}

impl Cut {
    /// Calls `piece` with the surviving ranges, relative to the write's own bytes.
    pub(super) fn kept(self, offset: u64, len: usize, mut piece: impl FnMut(usize, usize)) {
        if let Cut::FirstBytes(n) = self {
            return piece(0, n.min(len));
        }
        for (i, range) in sectors(offset, len).enumerate() {
            let keeps = match self {
                Cut::FirstSectors(n) => i < n,
                Cut::AfterSectors(n) => i >= n,
                Cut::EveryOther => i % 2 == 1,
                Cut::FirstBytes(_) | Cut::Shred => false,
            };
            if keeps {
                piece(range.start, range.end);
            }
        }
    }

    /// The file range that is garbage.
    pub(super) fn shredded(self, offset: u64, len: usize) -> Option<(u64, u64)> {
        let start = offset - offset % BLOCK as u64;
        (self == Cut::Shred).then(|| (start, (start + BLOCK as u64).min(offset + len as u64)))
    }
}

/// What is read where a file has grown and the bytes did not survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// Zeros, as every file system in its default mode gives.
    Zeros,
    /// Garbage, as file systems that do not order data before lengths give.
    Noise,
}

/// Garbage for `[start, end)` that depends on the place alone and has no zero byte.
pub(super) fn noise(start: u64, end: u64) -> Vec<u8> {
    let len = usize::try_from(end.saturating_sub(start)).expect("a simulated file fits memory");
    let mut bytes = Vec::with_capacity(len + 16);
    for i in start / 8..end.div_ceil(8) {
        bytes.extend_from_slice(&(mix(i) | 0x0101_0101_0101_0101).to_le_bytes());
    }
    bytes.drain(..usize::try_from(start % 8).expect("less than 8").min(bytes.len()));
    bytes.truncate(len);
    bytes
}

/// A permutation of 64 bits that spreads neighbours (the finalizer of SplitMix64).
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

/// The pieces of a write that lie in one sector each.
fn sectors(offset: u64, len: usize) -> impl Iterator<Item = Range<usize>> {
    let lead = usize::try_from(offset % SECTOR as u64).expect("less than a sector");
    let cuts = (0..len.div_ceil(SECTOR) + 1).map(move |i| (i * SECTOR).saturating_sub(lead).min(len));
    cuts.zip((1..).map(move |i| (i * SECTOR - lead).min(len))).map(|(a, b)| a..b).filter(|r| !r.is_empty())
}

/// How many fates to try at one crash point.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// All subsets of the pending parts when there are at most this many (at most 20).
    pub subsets_upto: usize,
    /// Otherwise so many subsets by chance, besides nothing, everything, each prefix, each part alone and each left out.
    pub random_subsets: usize,
    /// Pieces of each write tried, over everything before it.
    pub tears: usize,
    /// Also ruin the block in which a write begins ([`Cut::Shred`]).
    pub shred: bool,
    /// Also with garbage in holes.
    pub noise: bool,
}

/// Calls `visit` with each fate within `bounds`, the plainest first.
pub(super) fn for_each(pending: &[Pending], bounds: &Bounds, seed: u64, mut visit: impl FnMut(Fate)) {
    let n = pending.len();
    let holes = pending.iter().any(|p| p.part == Part::Growth) && bounds.noise;
    let mut both = |fate: Fate| {
        visit(fate);
        if holes {
            visit(fate.with_noise());
        }
    };
    both(Fate::NOTHING);
    if n == 0 {
        return;
    }
    both(Fate::EVERYTHING);
    if n <= bounds.subsets_upto.min(20) {
        (1..(1u64 << n) - 1).for_each(|bits| both(Fate::keeping(Keep::Mask(bits))));
    } else {
        (1..n).for_each(|i| both(Fate::keeping(Keep::Prefix(i))));
        (0..n).for_each(|i| both(Fate::keeping(Keep::AllBut(i))));
        (0..n).for_each(|i| both(Fate::keeping(Keep::Only(i))));
        let seeds = (0..bounds.random_subsets as u64).map(|i| mix(seed ^ i));
        seeds.for_each(|s| both(Fate::keeping(Keep::Random(s))));
    }
    for (unit, p) in pending.iter().enumerate() {
        if let (Part::Data, Some((offset, len))) = (p.part, p.extent()) {
            for cut in cuts(offset, len, bounds) {
                both(Fate::torn(unit, cut));
            }
        }
    }
}

/// The cuts of one write that are tried: first the telling ones, then more places while the bounds allow.
fn cuts(offset: u64, len: usize, bounds: &Bounds) -> Vec<Cut> {
    let count = sectors(offset, len).count();
    let mut cuts = Vec::new();
    if count > 1 {
        cuts.extend([Cut::FirstSectors(1), Cut::AfterSectors(1), Cut::FirstSectors(count - 1), Cut::EveryOther]);
        cuts.push(Cut::AfterSectors(count - 1));
    }
    if len > 1 {
        cuts.extend([Cut::FirstBytes(len - 1), Cut::FirstBytes(len / 2), Cut::FirstBytes(1)]);
    }
    let step = (count / bounds.tears.max(1)).max(1);
    cuts.extend((2..count.saturating_sub(1)).step_by(step).map(Cut::FirstSectors));
    cuts.truncate(bounds.tears);
    if bounds.shred {
        cuts.push(Cut::Shred);
    }
    cuts
}
