//! What follows from what jobs have come to: retrainings in stages, and who is told. Called by the daemon's lifecycle. It decides nothing about a job and holds no process: stages are jobs in the queue, programs are run by
//! who knows processes, and what follows from them is `domain`'s to say.

pub mod notify;
pub mod retrain;
