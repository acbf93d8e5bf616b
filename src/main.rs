//! The benchmark: strict against lazy unmapping on real SD/MMC I/O.

fn main() {}
