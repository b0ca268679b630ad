//! Time as an argument. The system's clock is in `daemon::clock`; tests bring their own.

use jiff::Timestamp;

/// Where a component reads the wall clock. Leases and deadlines inside a process use tokio's monotonic timers instead, so
/// that a clock jump moves no lease.
pub trait Clock: Send + Sync + 'static {
    /// The present moment, at microsecond precision.
    fn now(&self) -> Timestamp;
}
