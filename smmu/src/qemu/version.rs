//! Which QEMU it is.

use core::fmt;

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QemuVersion {
    /// 7 in 7.2.22.
    pub major: u32,
    /// 2 in 7.2.22.
    pub minor: u32,
    /// 22 in 7.2.22.
    pub patch: u32,
}

impl QemuVersion {
    /// The first that everything here was run with (Debian 12).
    pub const OLDEST: QemuVersion = QemuVersion {
        major: 7,
        minor: 2,
        patch: 0,
    };

    /// Reads the first line of `qemu-system-aarch64 --version`; `None` if it is
    /// something else.
    pub fn parse(output: &str) -> Option<Self> {
        let (_, after) = output
            .lines()
            .next()?
            .split_once("QEMU emulator version ")?;
        let number = after.split([' ', '(']).next()?;
        // A development version ends in a fourth number or a suffix.
        let mut parts = number.split(['.', '-', '+']);
        let mut next = || parts.next()?.parse::<u32>().ok();
        Some(QemuVersion {
            major: next()?,
            minor: next()?,
            patch: next().unwrap_or(0),
        })
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_distributions_print_them() {
        let of = |text| QemuVersion::parse(text).map(|v| (v.major, v.minor, v.patch));
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(of(debian), Some((7, 2, 22)));
        assert_eq!(of("QEMU emulator version 10.0.2\n"), Some((10, 0, 2)));
        assert_eq!(
            of("QEMU emulator version 9.1.50 (v9.1.0-1-g1)"),
            Some((9, 1, 50))
        );
        assert_eq!(of("QEMU emulator version 11.0-rc1"), Some((11, 0, 0)));
        for other in ["", "qemu-img version 7.2.0", "QEMU emulator version x.y"] {
            assert_eq!(of(other), None, "{other:?}");
        }
        assert!(QemuVersion::parse("QEMU emulator version 6.2.0") < Some(QemuVersion::OLDEST));
    }
}
