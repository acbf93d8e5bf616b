//! Addresses that leave the type system, and come back checked.

use dmabench_platform::{Iova, SlotGuard};

use crate::{IntoRawError, IntoRawReason, IovaDomain, IovaRange, RawError};

impl IovaDomain {
    /// Turns a range into plain numbers, address and size in pages, for callers
    /// that cannot hold a token. It stays allocated until
    /// [`free_raw`](Self::free_raw) or [`from_raw`](Self::from_raw).
    pub fn into_raw(&self, range: IovaRange) -> Result<(Iova, u64), IntoRawError> {
        let Some((address, size)) = self.key.open(&range) else {
            return Err(IntoRawError {
                range,
                reason: IntoRawReason::OtherDomain,
            });
        };
        match self
            .exported
            .lock()
            .insert(address >> self.granule().lg2(), size)
        {
            Ok(()) => Ok((Iova(address), size)),
            Err(_) => Err(IntoRawError {
                range,
                reason: IntoRawReason::NoMemory,
            }),
        }
    }

    /// Turns an exported range back into a token. `iova` and `size_pages` must
    /// be what [`into_raw`](Self::into_raw) returned.
    pub fn from_raw(&self, iova: Iova, size_pages: u64) -> Result<IovaRange, RawError> {
        let page = iova.0 >> self.granule().lg2();
        let mut exported = self.exported.lock();
        let known = exported
            .get(page)
            .filter(|_| iova.is_aligned_lg2(self.granule().lg2()));
        match known {
            Some(size) if size == size_pages => {
                exported.remove(page);
                Ok(self.key.token(iova.0, size))
            }
            Some(exported_pages) => Err(RawError::WrongSize { exported_pages }),
            None => {
                drop(exported);
                if self.space.lock().is_reserved(page) {
                    Err(RawError::Reserved)
                } else {
                    Err(RawError::NotExported)
                }
            }
        }
    }

    /// Frees an exported range.
    pub fn free_raw(
        &self,
        slot: &mut SlotGuard<'_>,
        iova: Iova,
        size_pages: u64,
    ) -> Result<(), RawError> {
        if !core::ptr::eq(slot.slots(), &**self.slots()) {
            return Err(RawError::OtherSlots);
        }
        let range = self.from_raw(iova, size_pages)?;
        // The token is of this domain and the guard of its table.
        self.free(slot, range).map_err(|_| RawError::OtherSlots)
    }
}
