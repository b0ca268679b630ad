//! PyTorch's files: reads a `state_dict` that `torch.save` wrote, for a model of known names and shapes. `bundle` calls it. The file is untrusted:
//! it is a program for a stack machine inside a zip archive, of which only what a `state_dict` needs is carried out, within
//! limits, and no memory is taken for a tensor before its name, shape and type are found to be the model's.
//!
//! `zip` finds and checks entries, `pickle` runs the program, `kinds` knows PyTorch's types, `pick` compares with the model, `copy` makes tensors.

mod copy;
mod kinds;
mod pick;
mod pickle;
mod zip;

use crate::{fault::Fault, nn::Tensors};

/// Room in a file for what is not tensors' data: the program and the directory.
pub const OVERHEAD_BYTES: u64 = 2 * pickle::MAX_BYTES as u64;

/// What to do about a file that PyTorch can still make good.
const SAVE_AGAIN: &str = "load it in a recent PyTorch and write it again: torch.save(model.state_dict(), path)";

/// The tensors of a model out of a PyTorch file, as f32 on the CPU: f64, f16 and bf16 are converted. `key` is where the state_dict lies in a
/// checkpoint that holds more than one thing, as in `{"epoch": 3, "model_state_dict": {…}}`.
///
/// # Errors
/// `spec`, with what is wrong with the file, or a sentence for each tensor that is missing, unexpected, or of another shape or type.
pub fn load(bytes: &[u8], layout: &[(String, Vec<usize>)], key: Option<&str>) -> Result<Tensors, Fault> {
    let archive = zip::Archive::open(bytes)?;
    let program = archive.program()?;
    let heap = pickle::run(program)?;
    let chosen = pick::model(&heap, layout, key)?;
    copy::tensors(&archive, &heap, &chosen)
}
