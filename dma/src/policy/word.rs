//! Linux's words for kinds of domains.

use core::{fmt, str::FromStr};

/// The kind of domain a group has. Words and meaning are those of
/// `Documentation/ABI/testing/sysfs-kernel-iommu_groups` in Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DomainType {
    /// `identity`: not translated.
    Identity,
    /// `DMA`: translated, strict.
    Dma,
    /// `DMA-FQ`: translated, unmapped lazily by a flush queue.
    DmaFq,
}

impl DomainType {
    /// All of them.
    pub const ALL: [Self; 3] = [DomainType::Identity, DomainType::Dma, DomainType::DmaFq];

    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            DomainType::Identity => "identity",
            DomainType::Dma => "DMA",
            DomainType::DmaFq => "DMA-FQ",
        }
    }
}

impl fmt::Display for DomainType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What can be written to a group's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TypeRequest {
    /// This kind.
    Type(DomainType),
    /// `auto`: what the group has without a request.
    Auto,
}

impl TypeRequest {
    /// One of the four words as sysfs gives it: whole, in the right case, and
    /// with at most one newline after it.
    ///
    /// # Errors
    ///
    /// [`UnknownWord`] for anything else, the empty string included.
    pub fn parse(written: &[u8]) -> Result<Self, UnknownWord> {
        match written.strip_suffix(b"\n").unwrap_or(written) {
            b"auto" => Ok(TypeRequest::Auto),
            word => DomainType::ALL
                .into_iter()
                .find(|kind| kind.word().as_bytes() == word)
                .map(TypeRequest::Type)
                .ok_or(UnknownWord),
        }
    }
}

impl FromStr for TypeRequest {
    type Err = UnknownWord;

    fn from_str(written: &str) -> Result<Self, UnknownWord> {
        TypeRequest::parse(written.as_bytes())
    }
}

/// Not a word for a kind of domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWord;

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown type: write DMA, DMA-FQ, identity or auto")
    }
}

impl core::error::Error for UnknownWord {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_linux_s_with_at_most_one_newline() {
        for (word, request) in [
            ("DMA", TypeRequest::Type(DomainType::Dma)),
            ("DMA-FQ", TypeRequest::Type(DomainType::DmaFq)),
            ("identity", TypeRequest::Type(DomainType::Identity)),
            ("auto", TypeRequest::Auto),
        ] {
            assert_eq!(word.parse(), Ok(request));
            assert_eq!(
                TypeRequest::parse(alloc::format!("{word}\n").as_bytes()),
                Ok(request)
            );
            for wrong in [
                alloc::format!("{word}\n\n"),
                alloc::format!("\n{word}"),
                alloc::format!("{word} "),
                alloc::format!("{word}\r\n"),
                alloc::format!("{word}\0"),
                word[1..].into(),
                word[..word.len() - 1].into(),
                word.to_ascii_lowercase() + "x",
            ] {
                assert_eq!(wrong.parse::<TypeRequest>(), Err(UnknownWord), "{wrong:?}");
            }
        }
        for wrong in [&b""[..], b"\n", b"dma", b"DMA-fq", b"Identity", b"\xff\xfe"] {
            assert_eq!(TypeRequest::parse(wrong), Err(UnknownWord));
        }
    }

    #[test]
    fn what_is_shown_can_be_written_back() {
        for kind in DomainType::ALL {
            assert_eq!(kind.word().parse(), Ok(TypeRequest::Type(kind)));
        }
    }
}
