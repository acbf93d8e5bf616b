//! Device-tree `compatible` lists, and what is known about their strings.

use core::fmt;

/// One string and what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a, T> {
    /// As in a device tree: `vendor,model`.
    pub compatible: &'a str,
    /// What is known about such devices.
    pub value: T,
}

/// Strings of `compatible` lists and what is known about such devices.
///
/// Strings are compared without regard to ASCII case, as in Linux
/// (`of_compat_cmp` in `include/linux/of.h`).
#[derive(Clone, Copy, Debug)]
pub struct MatchTable<'a, T> {
    entries: &'a [Entry<'a, T>],
}

/// A table that would be ambiguous, or match nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MatchTableError {
    /// An entry has no string.
    Empty {
        /// Its place.
        index: usize,
    },
    /// Two entries have the same string.
    Duplicate {
        /// Place of the first.
        first: usize,
        /// Place of the second.
        second: usize,
    },
}

impl fmt::Display for MatchTableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MatchTableError::Empty { index } => {
                write!(f, "entry {index} has no string: leave it out")
            }
            MatchTableError::Duplicate { first, second } => write!(
                f,
                "entries {first} and {second} have the same string: keep one"
            ),
        }
    }
}

impl core::error::Error for MatchTableError {}

impl<'a, T> MatchTable<'a, T> {
    /// A table; the order of its entries does not matter.
    ///
    /// # Errors
    ///
    /// [`MatchTableError`].
    pub const fn new(entries: &'a [Entry<'a, T>]) -> Result<Self, MatchTableError> {
        let mut second = 0;
        while second < entries.len() {
            let string = entries[second].compatible;
            if string.is_empty() {
                return Err(MatchTableError::Empty { index: second });
            }
            let mut first = 0;
            while first < second {
                if entries[first].compatible.eq_ignore_ascii_case(string) {
                    return Err(MatchTableError::Duplicate { first, second });
                }
                first += 1;
            }
            second += 1;
        }
        Ok(MatchTable { entries })
    }

    /// What is known about a device with this list of strings, the most specific
    /// first, as device trees have them: the first string of the *device* that
    /// the table knows decides, wherever it stands in the table.
    pub fn lookup<'s>(&self, compatible: impl IntoIterator<Item = &'s str>) -> Option<&'a T> {
        compatible.into_iter().find_map(|string| {
            self.entries
                .iter()
                .find(|entry| entry.compatible.eq_ignore_ascii_case(string))
                .map(|entry| &entry.value)
        })
    }
}

/// The strings of a `compatible` property as it stands in a flattened device
/// tree: each ended by a zero byte.
///
/// # Errors
///
/// [`CompatibleError`]; a property that is not well formed says nothing.
pub fn parse_compatible(
    property: &[u8],
) -> Result<impl Iterator<Item = &str> + Clone, CompatibleError> {
    let Some((0, strings)) = property.split_last() else {
        return Err(CompatibleError::Unterminated);
    };
    let mut at = 0;
    for string in strings.split(|byte| *byte == 0) {
        if string.is_empty() {
            return Err(CompatibleError::Empty { at });
        }
        if let Some(bad) = string.iter().position(|byte| !byte.is_ascii_graphic()) {
            return Err(CompatibleError::NotPrintable { at: at + bad });
        }
        at += string.len() + 1;
    }
    Ok(strings
        .split(|byte| *byte == 0)
        .filter_map(|string| core::str::from_utf8(string).ok()))
}

/// What is wrong with a `compatible` property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompatibleError {
    /// It is empty, or its last string has no zero byte.
    Unterminated,
    /// A string of no characters.
    Empty {
        /// Byte of the property.
        at: usize,
    },
    /// A byte that no string of a `compatible` property may have.
    NotPrintable {
        /// Byte of the property.
        at: usize,
    },
}

impl fmt::Display for CompatibleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompatibleError::Unterminated => {
                f.write_str("the property does not end with a zero byte: give all of it")
            }
            CompatibleError::Empty { at } => write!(f, "an empty string at byte {at}"),
            CompatibleError::NotPrintable { at } => {
                write!(f, "byte {at} is not a printable character")
            }
        }
    }
}

impl core::error::Error for CompatibleError {}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const TABLE: MatchTable<'static, u32> = match MatchTable::new(&[
        Entry {
            compatible: "qcom,sdhci-msm-v5",
            value: 5,
        },
        Entry {
            compatible: "qcom,sc7180-sdhci",
            value: 7180,
        },
    ]) {
        Ok(table) => table,
        Err(_) => panic!(),
    };

    #[test]
    fn the_devices_most_specific_string_decides_not_the_tables_order() {
        let lookup = |list: &[&str]| TABLE.lookup(list.iter().copied()).copied();
        assert_eq!(
            lookup(&["qcom,sc7180-sdhci", "qcom,sdhci-msm-v5"]),
            Some(7180)
        );
        assert_eq!(lookup(&["qcom,sdm845-sdhci", "qcom,sdhci-msm-v5"]), Some(5));
        assert_eq!(lookup(&["QCOM,SC7180-SDHCI"]), Some(7180));
        assert_eq!(lookup(&["qcom,sc7180"]), None);
        assert_eq!(lookup(&["qcom,sc7180-sdhci-2"]), None);
        assert_eq!(lookup(&[""]), None);
        assert_eq!(lookup(&[]), None);
    }

    #[test]
    fn ambiguous_tables_are_refused() {
        let entry = |compatible| Entry {
            compatible,
            value: (),
        };
        assert_eq!(
            MatchTable::new(&[entry("a,b"), entry("a,c"), entry("A,b")]).unwrap_err(),
            MatchTableError::Duplicate {
                first: 0,
                second: 2
            }
        );
        assert_eq!(
            MatchTable::new(&[entry("a,b"), entry("")]).unwrap_err(),
            MatchTableError::Empty { index: 1 }
        );
        assert!(MatchTable::<()>::new(&[]).is_ok());
    }

    #[test]
    fn properties_are_read_whole_or_not_at_all() {
        let strings = |property| parse_compatible(property).map(|s| s.collect::<Vec<_>>());
        assert_eq!(
            strings(b"qcom,sc7180-sdhci\0qcom,sdhci-msm-v5\0"),
            Ok(["qcom,sc7180-sdhci", "qcom,sdhci-msm-v5"].into())
        );
        assert_eq!(strings(b""), Err(CompatibleError::Unterminated));
        assert_eq!(strings(b"a,b"), Err(CompatibleError::Unterminated));
        assert_eq!(strings(b"a,b\0c"), Err(CompatibleError::Unterminated));
        assert_eq!(strings(b"\0"), Err(CompatibleError::Empty { at: 0 }));
        assert_eq!(strings(b"a,b\0\0"), Err(CompatibleError::Empty { at: 4 }));
        assert_eq!(
            strings(b"a,b\0c \0"),
            Err(CompatibleError::NotPrintable { at: 5 })
        );
        assert_eq!(
            strings(b"\xff\0"),
            Err(CompatibleError::NotPrintable { at: 0 })
        );
    }
}
