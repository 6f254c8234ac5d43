//! A file's bytes in pages shared copy-on-write, so that a crash state costs what differs and not what the file holds.
//!
//! Invariants: every page but the last is full; what lies past the end in the last page is zero; a page's hash is of its
//! present bytes.

use std::sync::{Arc, LazyLock, OnceLock};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const PAGE: usize = 4096;

#[derive(Clone, Debug)]
struct Page {
    bytes: [u8; PAGE],
    hash: OnceLock<u64>,
}

static ZEROS: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new(Page { bytes: [0; PAGE], hash: OnceLock::new() }));

impl Page {
    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| xxh3_64(&self.bytes))
    }

    fn bytes_mut(page: &mut Arc<Page>) -> &mut [u8; PAGE] {
        let page = Arc::make_mut(page);
        page.hash = OnceLock::new();
        &mut page.bytes
    }
}

/// A file's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pages: Vec<Arc<Page>>,
    len: usize,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Cuts, or extends with zeros.
    pub(super) fn set_len(&mut self, len: usize) {
        let cut_in_page = len < self.len && !len.is_multiple_of(PAGE);
        self.pages.resize_with(len.div_ceil(PAGE), || Arc::clone(&ZEROS));
        if cut_in_page && let Some(last) = self.pages.last_mut() {
            Page::bytes_mut(last)[len % PAGE..].fill(0);
        }
        self.len = len;
    }

    /// Writes, growing with zeros.
    pub(super) fn put(&mut self, offset: usize, data: &[u8]) {
        if self.len < offset + data.len() {
            self.set_len(offset + data.len());
        }
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let in_page = at % PAGE;
            let (now, later) = rest.split_at(rest.len().min(PAGE - in_page));
            Page::bytes_mut(&mut self.pages[at / PAGE])[in_page..in_page + now.len()].copy_from_slice(now);
            (at, rest) = (at + now.len(), later);
        }
    }

    /// Fills `buf` from `offset` on as far as the file reaches; how far that is.
    pub(super) fn read(&self, offset: usize, buf: &mut [u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(buf.len());
        let mut done = 0;
        while done < n {
            let (page, in_page) = ((offset + done) / PAGE, (offset + done) % PAGE);
            let now = (n - done).min(PAGE - in_page);
            buf[done..done + now].copy_from_slice(&self.pages[page].bytes[in_page..in_page + now]);
            done += now;
        }
        n
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.pages.iter().flat_map(|page| page.bytes).collect();
        bytes.truncate(self.len);
        bytes
    }

    /// The bytes in pieces, with the offset of each.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let len_of = |i: usize| (self.len - i * PAGE).min(PAGE);
        self.pages.iter().enumerate().map(move |(i, page)| ((i * PAGE) as u64, &page.bytes[..len_of(i)]))
    }

    pub(super) fn hash(&self) -> u64 {
        let mut hasher = Xxh3::new();
        hasher.update(&(self.len as u64).to_le_bytes());
        self.pages.iter().for_each(|page| hasher.update(&page.hash().to_le_bytes()));
        hasher.digest()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_as_a_vector_of_bytes(ops in prop::collection::vec((0..3u8, 0..20_000usize, 0..9_000usize, any::<u8>()), 1..30)) {
            let (mut content, mut model) = (Content::default(), Vec::<u8>::new());
            for (kind, at, len, byte) in ops {
                let before = content.clone();
                let expected_before = model.clone();
                if kind == 0 {
                    content.set_len(at);
                    model.resize(at, 0);
                } else {
                    content.put(at, &vec![byte; len]);
                    model.resize(model.len().max(at + len), 0);
                    model[at..at + len].fill(byte);
                }
                prop_assert_eq!(content.to_vec(), model.clone());
                prop_assert_eq!(before.to_vec(), expected_before, "a copy is not touched");
                let mut buf = vec![1; len];
                let n = content.read(at / 2, &mut buf);
                let end = model.len().min(at / 2 + len);
                prop_assert_eq!(&buf[..n], &model[(at / 2).min(end)..end]);
                let joined: Vec<u8> = content.pieces().flat_map(|(_, piece)| piece.to_vec()).collect();
                prop_assert_eq!(&joined, &model);
                let mut afresh = Content::default();
                afresh.put(0, &model);
                prop_assert_eq!(afresh.hash(), content.hash());
            }
        }
    }
}
