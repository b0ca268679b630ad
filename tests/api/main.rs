//! The API from outside: a real database, a real supervisor and a real socket in a folder of their own. No worker runs: what one would do is put on record by the test.

#[cfg(test)]
mod arrays;
#[cfg(test)]
mod rig;

#[cfg(test)]
mod checkpoints;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod datasets;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod follow;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod models;
#[cfg(test)]
mod queues;
#[cfg(test)]
mod removal;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod submit;
