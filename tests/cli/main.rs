//! `mlctl`, the real program, against a played daemon: what it prints, what it asks, and how it ends. Help texts and tables are pinned in `snapshots`; after a change that
//! is meant, `MLCTL_SNAPSHOTS=write cargo nextest run --test cli` writes them anew.

#[cfg(test)]
mod played;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod views;

#[cfg(test)]
mod arrays;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod follow;
#[cfg(test)]
mod help;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod schedule;
#[cfg(test)]
mod spec;
#[cfg(test)]
mod submit;
