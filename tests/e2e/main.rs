//! The whole system from outside: the real `mld`, the real `mlctl`, the fake and the real worker. `support` builds them and keeps daemons; each other file is a
//! promise and the ways in which it could be broken.

#[cfg(test)]
mod ahead;
#[cfg(test)]
mod aliases;
#[cfg(test)]
mod apply;
#[cfg(test)]
mod arrays;
#[cfg(test)]
mod backfill;
#[cfg(test)]
mod backup;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod broken_disk;
#[cfg(test)]
#[path = "../support/cgroup_tree.rs"]
mod cgroup_tree;
#[cfg(test)]
mod cgroups;
#[cfg(test)]
#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../support/chance.rs"]
mod chance;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod datasets;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod evaluate;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod freeze;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod models;
#[cfg(test)]
mod nights;
#[cfg(test)]
mod notify;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod overlap;
#[cfg(test)]
mod pause;
#[cfg(test)]
mod promise;
#[cfg(test)]
mod pull;
#[cfg(test)]
#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../support/puppet.rs"]
mod puppet;
#[cfg(test)]
mod queues;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod removal;
#[cfg(test)]
mod repro;
#[cfg(test)]
mod retrain;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod s3;
#[cfg(test)]
#[path = "../support/s3.rs"]
mod s3_server;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod starting;
#[cfg(test)]
mod storage;
#[cfg(test)]
mod streamed;
#[cfg(test)]
mod support;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod terminal;
#[cfg(test)]
mod time;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod weights;
