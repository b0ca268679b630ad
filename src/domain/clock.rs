//! Time as an argument. The system's clock is in `daemon::clock`; tests bring their own.

use std::time::Duration;

use jiff::Timestamp;

/// Where a component reads the wall clock. Leases and deadlines inside a process use tokio's monotonic timers instead, so
/// that a clock jump moves no lease.
pub trait Clock: Send + Sync + 'static {
    /// The present moment, at microsecond precision.
    fn now(&self) -> Timestamp;

    /// How long a monotonic timer runs until this clock shows `moment`, if nobody sets it meanwhile; nothing when it is past.
    fn until(&self, moment: Timestamp) -> Duration {
        Duration::try_from(moment.duration_since(self.now())).unwrap_or_default()
    }
}
