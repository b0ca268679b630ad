//! Work that takes several jobs: retrainings in stages. Called by the daemon's lifecycle. It decides nothing about a job and holds no process: stages are jobs in the queue, and what follows from them is `domain`'s to say.

pub mod retrain;
