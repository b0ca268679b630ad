//! The store on its real file, from outside.

mod rig;

mod basics;
