//! Caches of the CPU that a device does not see.

use alloc::sync::Arc;

use crate::{Device, Direction, Segment};

/// Cache maintenance for devices that do not snoop the CPU's caches
/// ([`Device::coherent`] false). Never called for coherent ones.
///
/// The pieces are those of the caller's list, to the byte, or those of bounce
/// slots in whole granules. A piece that shares its first or last cache line with
/// other data is the caller's risk, as everywhere: invalidating the line loses
/// what the CPU wrote next to the buffer meanwhile. Align such buffers to cache
/// lines, or [bounce](crate::bounce) them, which gives their ends granules of
/// their own.
///
/// On AArch64 (what Linux does, `arch/arm64/mm/dma-mapping.c`): `for_device` is
/// `DC CVAC` over the lines whatever the direction, so that no dirty line is left
/// to be written over what the device writes; `for_cpu` is `DC IVAC` (with `DC
/// CIVAC` for a line that is shared at an end); each with a `DSB SY` after it.
///
/// # Concurrency
///
/// Called at any time on any number of threads, outside every section of a slot:
/// it may take its time.
pub trait CacheOps: Send + Sync {
    /// The device works with `piece` from now on: what the CPU wrote goes to
    /// memory. Called before the device can reach it.
    fn for_device(&self, piece: Segment, direction: Direction);

    /// The CPU works with `piece` from now on: what it has in its caches is
    /// forgotten. Called after the device has lost it, and only where the device
    /// may have written.
    fn for_cpu(&self, piece: Segment, direction: Direction);
}

/// For machines on which every device is coherent.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCacheOps;

impl CacheOps for NoCacheOps {
    #[inline]
    fn for_device(&self, _piece: Segment, _direction: Direction) {}

    #[inline]
    fn for_cpu(&self, _piece: Segment, _direction: Direction) {}
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<C: CacheOps + ?Sized> CacheOps for $pointer {
            #[inline]
            fn for_device(&self, piece: Segment, direction: Direction) {
                (**self).for_device(piece, direction);
            }

            #[inline]
            fn for_cpu(&self, piece: Segment, direction: Direction) {
                (**self).for_cpu(piece, direction);
            }
        }
    )*};
}

forward!(&C, Arc<C>);

/// The hooks as one device needs them: none where it is coherent.
#[derive(Clone, Copy)]
pub(crate) struct Hooks<'a, C> {
    caches: Option<&'a C>,
    direction: Direction,
}

impl<'a, C: CacheOps> Hooks<'a, C> {
    pub(crate) fn new(caches: &'a C, coherent: bool, direction: Direction) -> Self {
        Hooks {
            caches: (!coherent).then_some(caches),
            direction,
        }
    }

    pub(crate) fn of(caches: &'a C, device: &Device, direction: Direction) -> Self {
        Self::new(caches, device.is_coherent(), direction)
    }

    #[inline]
    pub(crate) fn for_device(&self, piece: Segment) {
        if let Some(caches) = self.caches {
            caches.for_device(piece, self.direction);
        }
    }

    #[inline]
    pub(crate) fn for_cpu(&self, piece: Segment) {
        if self.direction.device_writes()
            && let Some(caches) = self.caches
        {
            caches.for_cpu(piece, self.direction);
        }
    }
}
