//! The supervisor over a real database and real storage, with workers that the test plays itself: it dials, says the truth or not, obeys or not, and dies when it
//! likes. What real processes do is tested in `process`.

mod adoption;
mod ends;
mod limits;
mod links;
mod stage;
