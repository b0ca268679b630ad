//! The store on its real file, from outside.

#[cfg(test)]
#[path = "../support/chance.rs"]
mod chance;
#[cfg(test)]
mod furniture;
#[cfg(test)]
mod rig;

#[cfg(test)]
mod aliases;
#[cfg(test)]
mod arrays;
#[cfg(test)]
mod backups;
#[cfg(test)]
mod basics;
#[cfg(test)]
mod control;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod datasets;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod estate;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod gates;
#[cfg(test)]
mod group;
#[cfg(test)]
mod halving;
#[cfg(test)]
mod history;
#[cfg(test)]
mod hooks;
#[cfg(test)]
mod kept;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod models;
#[cfg(test)]
mod newest;
#[cfg(test)]
mod opening;
#[cfg(test)]
mod order;
#[cfg(test)]
mod queues;
#[cfg(test)]
mod removal;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod webs;
