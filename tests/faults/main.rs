//! The fault harness: the real `mld` and real workers under kills at random moments and at chosen system calls, under power cuts, stops and flipped bits, with a history of what clients were
//! told, which a checker holds against the record. Each kind of fault is a file; each detector has a control that must trip it. Seeds are printed and taken back (`tests/support/chance.rs`);
//! the long forms are behind `ops/soak`.

#[cfg(test)]
#[path = "../support/chance.rs"]
mod chance;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod history;
#[cfg(test)]
mod load;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod points;
#[cfg(test)]
mod power;
#[cfg(test)]
mod reuse;
#[cfg(test)]
mod stale;
#[cfg(test)]
mod storm;
#[cfg(test)]
#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../e2e/support/mod.rs"]
mod support;
#[cfg(test)]
mod training;
