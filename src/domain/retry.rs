//! Whether and when a dead attempt is followed by another.
