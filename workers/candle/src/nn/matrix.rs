//! Matrices of f32 in the memory of this process, seen by rows or by columns without a copy, and their products by candle's own kernel. Used by the
//! transformer's blocks.

use candle_core::{CpuStorage, Layout, Result, Shape, backend::BackendStorage, bail};
use rayon::prelude::*;

use super::blocks::{BLOCK, for_blocks};

/// Rows whose sums are taken together in f32, before the sums of the blocks are added in f64.
const SUMMED_ROWS: usize = 128;

/// A matrix, or a part of one, as somebody else's memory.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    storage: &'a CpuStorage,
    rows: usize,
    columns: usize,
    /// From a row to the next, and from a column to the next.
    strides: (usize, usize),
    start: usize,
}

impl<'a> View<'a> {
    /// Memory from `start` on, row by row.
    pub(super) fn new(storage: &'a CpuStorage, start: usize, rows: usize, columns: usize) -> Self {
        Self { storage, rows, columns, strides: (columns, 1), start }
    }

    /// The same with rows for columns.
    pub(super) fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, strides: (self.strides.1, self.strides.0), ..self }
    }

    /// Some of its rows.
    pub(super) fn rows(self, from: usize, count: usize) -> Self {
        Self { rows: count, start: self.start + from * self.strides.0, ..self }
    }

    fn layout(self) -> Layout {
        let shape: Shape = (self.rows, self.columns).into();
        Layout::new(shape, vec![self.strides.0, self.strides.1], self.start)
    }

    /// Its product with another, row by row.
    pub(super) fn times(self, other: View<'_>) -> Result<CpuStorage> {
        if self.columns != other.rows {
            bail!("a matrix of {} columns times one of {} rows", self.columns, other.rows);
        }
        let size = (1, self.rows, other.columns, self.columns);
        self.storage.matmul(other.storage, size, &self.layout(), &other.layout())
    }
}

/// Values in memory of their own.
pub(super) fn storage(values: Vec<f32>) -> CpuStorage {
    CpuStorage::F32(values)
}

/// What a storage holds.
pub(super) fn values(storage: &CpuStorage) -> Result<&[f32]> {
    match storage {
        CpuStorage::F32(values) => Ok(values),
        _ => bail!("expected f32 values"),
    }
}

/// The same to write to.
pub(super) fn values_mut(storage: &mut CpuStorage) -> Result<&mut [f32]> {
    match storage {
        CpuStorage::F32(values) => Ok(values),
        _ => bail!("expected f32 values"),
    }
}

/// What a storage held.
pub(super) fn into_values(storage: CpuStorage) -> Result<Vec<f32>> {
    match storage {
        CpuStorage::F32(values) => Ok(values),
        _ => bail!("expected f32 values"),
    }
}

/// Adds values to others.
pub(super) fn add(to: &mut [f32], from: &[f32]) {
    for_blocks(to, BLOCK, |start, block| add_here(block, &from[start..]));
}

/// Adds values to others, on this thread.
pub(super) fn add_here(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(sum, value)| *sum += value);
}

/// The sum of each column of what `row` makes of each row: it adds a row's values to the sums that it is given.
pub(super) fn sum_rows(rows: usize, columns: usize, row: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let of = |block: usize| {
        let mut sums = vec![0.0_f32; columns];
        for number in block * SUMMED_ROWS..rows.min((block + 1) * SUMMED_ROWS) {
            row(number, &mut sums);
        }
        sums
    };
    let parts: Vec<Vec<f32>> = (0..rows.div_ceil(SUMMED_ROWS)).into_par_iter().map(of).collect();
    let mut sums = vec![0.0_f64; columns];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += f64::from(value));
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
    sums.into_iter().map(|sum| sum as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_views_are_what_they_are_by_hand() {
        let a = storage(vec![9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let b = storage(vec![1.0, 0.0, 2.0, 1.0]);
        // ((1 2) (3 4) (5 6)) times ((1 0) (2 1)).
        let product = View::new(&a, 1, 3, 2).times(View::new(&b, 0, 2, 2)).unwrap();
        assert_eq!(values(&product).unwrap(), [5.0, 2.0, 11.0, 4.0, 17.0, 6.0]);
        let product = View::new(&a, 1, 3, 2).rows(1, 2).t().times(View::new(&b, 0, 2, 2)).unwrap();
        // ((3 5) (4 6)) times the same.
        assert_eq!(values(&product).unwrap(), [13.0, 5.0, 16.0, 6.0]);
        assert!(View::new(&a, 1, 3, 2).times(View::new(&b, 0, 1, 4)).is_err());
    }

    #[test]
    fn columns_are_summed_over_any_number_of_rows() {
        for rows in [0, 1, 127, 128, 129, 300] {
            let sums = sum_rows(rows, 2, |row, sums| add_here(sums, &[1.0, f32::from(u16::try_from(row).unwrap())]));
            let last = u16::try_from(rows * rows.saturating_sub(1) / 2).unwrap();
            assert_eq!(sums, [f32::from(u16::try_from(rows).unwrap()), f32::from(last)]);
        }
    }
}
