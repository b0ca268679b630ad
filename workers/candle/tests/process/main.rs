//! The program itself: `mlworker` as a process, started and spoken to as the daemon does it, with the example jobs; ordered to stop, killed
//! at random moments and started again; and started by a person.

#[cfg(test)]
mod article;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod pth;
