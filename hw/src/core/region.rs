//! From a region of the map to the device behind it.

use std::sync::Arc;

use vmstate::qom::{ObjectPart, WeakObj};

use crate::memory::{IoContext, RegionOps};

/// Lets a region reach its device without keeping it alive.
///
/// A region may outlive its device for the length of one flat view (a vCPU that still reads the old one); such an access
/// finds nothing there: reads give all ones, writes are lost, as on an empty bus.
pub struct DeviceRegion<T: ObjectPart>(WeakObj<T>);

impl<T: ObjectPart + RegionOps> DeviceRegion<T> {
    /// The operations of `device`, as a region wants them.
    #[must_use]
    pub fn ops(device: WeakObj<T>) -> Arc<dyn RegionOps> {
        Arc::new(Self(device))
    }
}

impl<T: ObjectPart + RegionOps> RegionOps for DeviceRegion<T> {
    fn read(&self, cx: &mut IoContext, offset: u64, size: u8) -> u64 {
        self.0
            .upgrade()
            .map_or(u64::MAX, |device| device.read(cx, offset, size))
    }

    fn write(&self, cx: &mut IoContext, offset: u64, size: u8, value: u64) {
        if let Some(device) = self.0.upgrade() {
            device.write(cx, offset, size, value);
        }
    }
}
