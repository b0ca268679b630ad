//! Work over flat f32 buffers in blocks of a fixed size, on several threads when it is worth it. Block borders depend on
//! nothing but the length, so that results do not depend on the number of threads. Used by `ops`, `loss` and `optim`.

use rayon::prelude::*;

/// Values in a block.
pub(crate) const BLOCK: usize = 1 << 14;

/// Values from which a second thread is woken: below, waking costs more than it saves.
pub(crate) const PARALLEL_FROM: usize = 1 << 16;

/// Calls `work(first value's index, block)` on every block of `block` values.
pub(crate) fn for_blocks(values: &mut [f32], block: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let block = block.max(1);
    if values.len() < PARALLEL_FROM {
        values.chunks_mut(block).enumerate().for_each(|(i, chunk)| work(i * block, chunk));
    } else {
        values.par_chunks_mut(block).enumerate().for_each(|(i, chunk)| work(i * block, chunk));
    }
}

/// Copies values, as long as those there are.
pub(crate) fn copy(to: &mut [f32], from: &[f32]) {
    for_blocks(to, BLOCK, |start, block| block.copy_from_slice(&from[start..start + block.len()]));
}

/// Adds up, in order, `part(first value's index, block)` over the blocks of `block` values.
pub(crate) fn sum_blocks(values: &[f32], block: usize, part: impl Fn(usize, &[f32]) -> f64 + Sync) -> f64 {
    let block = block.max(1);
    if values.len() < PARALLEL_FROM {
        values.chunks(block).enumerate().map(|(i, chunk)| part(i * block, chunk)).sum()
    } else {
        let parts: Vec<f64> = values.par_chunks(block).enumerate().map(|(i, chunk)| part(i * block, chunk)).collect();
        parts.into_iter().sum()
    }
}

/// A block size of about [`BLOCK`] values that cuts no row.
pub(crate) fn whole_rows(columns: usize) -> usize {
    let columns = columns.max(1);
    columns * BLOCK.div_ceil(columns)
}
