//! SQL's LIKE: `%` is any run of characters, `_` any one of them, `\` takes the next as it is. Case counts.

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Like {
    parts: Vec<Part>,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    AnyRun,
    AnyOne,
    Just(char),
}

impl Like {
    /// The pattern, or `None` if it ends in a lone `\`.
    pub(crate) fn new(text: &str) -> Option<Like> {
        let (mut parts, mut chars) = (Vec::new(), text.chars());
        while let Some(c) = chars.next() {
            parts.push(match c {
                '%' if parts.last() == Some(&Part::AnyRun) => continue,
                '%' => Part::AnyRun,
                '_' => Part::AnyOne,
                '\\' => Part::Just(chars.next()?),
                c => Part::Just(c),
            });
        }
        Some(Like { parts, text: text.to_owned() })
    }

    /// Bytes of the pattern's text.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// The pattern as it was written.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What every text that fits begins with.
    pub(super) fn prefix(&self) -> String {
        let literal = |part: &Part| if let Part::Just(c) = part { Some(*c) } else { None };
        self.parts.iter().map_while(literal).collect()
    }

    /// Whether all of `text` fits. At worst the product of the lengths, without recursion.
    pub(super) fn matches(&self, text: &str) -> bool {
        let (mut at, mut rest) = (0, text.chars());
        // Where to go on if what follows the last run does not fit: the run takes one character more.
        let mut retry = None;
        loop {
            let before = rest.clone();
            match (self.parts.get(at), rest.next()) {
                (Some(Part::AnyRun), _) => {
                    retry = Some((at + 1, before.clone()));
                    (at, rest) = (at + 1, before);
                    continue;
                }
                (Some(Part::AnyOne), Some(_)) => at += 1,
                (Some(Part::Just(c)), Some(d)) if *c == d => at += 1,
                (None, None) => return true,
                _ => {
                    let Some((resume, mut skipped)) = retry.take() else { return false };
                    if skipped.next().is_none() {
                        return false;
                    }
                    retry = Some((resume, skipped.clone()));
                    (at, rest) = (resume, skipped);
                }
            }
        }
    }
}
