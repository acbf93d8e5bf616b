//! Simulated memory as what the CPU copies in: for bounce slots.

use dmabench_platform::{CpuMemory, MemoryError, PhysAddr};

use super::memory::{PHYS_BITS, SimMemory};

/// Bytes that are moved at once.
const CHUNK: usize = 512;

impl SimMemory {
    /// Tables are written by whoever made them, and by nobody else.
    fn check(&self, at: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        let refused = MemoryError::NotMemory {
            phys: at,
            len_bytes,
        };
        let last = at.last_byte(len_bytes).ok_or(refused)?;
        if last.0 >> PHYS_BITS != 0 || self.is_table_address(at) || self.is_table_address(last) {
            return Err(refused);
        }
        Ok(())
    }

    fn store(&self, at: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        self.check(at, bytes.len() as u64)?;
        self.write(at, bytes)
            .map_err(|_| MemoryError::NoRoom { phys: at })
    }
}

/// All of its 52 bits but the window of the tables. A length of 0 is refused.
impl CpuMemory for SimMemory {
    fn copy(&self, from: PhysAddr, to: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        self.check(from, len_bytes)?;
        self.check(to, len_bytes)?;
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while done < len_bytes {
            let now = (len_bytes - done).min(CHUNK as u64);
            let chunk = &mut chunk[..now as usize];
            // A long range may hold the whole window of the tables.
            self.check(PhysAddr(from.0 + done), now)?;
            self.read(PhysAddr(from.0 + done), chunk);
            self.store(PhysAddr(to.0 + done), chunk)?;
            done += now;
        }
        Ok(())
    }

    fn zero(&self, at: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        self.check(at, len_bytes)?;
        let mut done = 0;
        while done < len_bytes {
            let now = (len_bytes - done).min(CHUNK as u64);
            self.store(PhysAddr(at.0 + done), &[0; CHUNK][..now as usize])?;
            done += now;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soft::SimMemoryConfig;

    #[test]
    fn copies_and_zeroes_to_the_byte() {
        let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
        let data: alloc::vec::Vec<u8> = (0..2000).map(|i| i as u8 | 1).collect();
        memory.write(PhysAddr(0x1003), &data).unwrap();
        memory
            .copy(PhysAddr(0x1003), PhysAddr(0xf_fffe), 2000)
            .unwrap();
        memory.zero(PhysAddr(0xf_fffe + 7), 1500).unwrap();
        let mut back = [0xee; 2001];
        memory.read(PhysAddr(0xf_fffe), &mut back);
        assert_eq!(back[..7], data[..7]);
        assert_eq!(back[7..1507], [0; 1500]);
        assert_eq!(back[1507..2000], data[1507..]);
        assert_eq!(back[2000], 0);
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        let config = SimMemoryConfig::default().with_data_limit(5 * 8192);
        let memory = SimMemory::new(config).unwrap();
        let table = config.table_base;
        for (at, len) in [
            (PhysAddr(1 << 52), 1),
            (PhysAddr((1 << 52) - 1), 2),
            (PhysAddr(u64::MAX), 2),
            (table, 8),
            (PhysAddr(table.0 - 4), 8),
            (PhysAddr(0), 0),
        ] {
            let refused = Err(MemoryError::NotMemory {
                phys: at,
                len_bytes: len,
            });
            assert_eq!(memory.zero(at, len), refused);
            assert_eq!(memory.copy(at, PhysAddr(0x5000), len), refused);
            assert_eq!(
                memory.copy(PhysAddr(0x5000), at, len),
                match len {
                    0 => Err(MemoryError::NotMemory {
                        phys: PhysAddr(0x5000),
                        len_bytes: 0
                    }),
                    _ => refused,
                }
            );
        }
        let full = memory.zero(PhysAddr(0), 1 << 20).unwrap_err();
        assert!(matches!(full, MemoryError::NoRoom { .. }), "{full}");
    }
}
