//! Synthetic rows: standard normal numbers, each row a stream of its own, so that any row can be made alone. Specified in
//! `docs/rng.md`.

use rayon::prelude::*;

use crate::rng::{Rng, Stream};

/// Which of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// What is learnt from.
    Features,
    /// What is learnt.
    Targets,
}

/// Some rows of a table, row-major.
#[must_use]
pub fn rows(seed: u64, table: Table, first: u64, count: usize, width: usize) -> Vec<f32> {
    let table = match table {
        Table::Features => 0,
        Table::Targets => 1,
    };
    let mut values = vec![0.0; count * width];
    values.par_chunks_mut(width.max(1)).enumerate().for_each(|(number, row)| {
        let block = first.saturating_add(number as u64);
        Rng::new(seed, Stream::Data { table, block }).fill_normal(row);
    });
    values
}

/// The names of its columns: `x0`, `x1`, … and `y0`, `y1`, ….
#[must_use]
pub fn names(table: Table, width: u32) -> Vec<String> {
    let letter = match table {
        Table::Features => 'x',
        Table::Targets => 'y',
    };
    (0..width).map(|column| format!("{letter}{column}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_rows_can_be_made_alone() {
        let whole = rows(5, Table::Features, 0, 10, 3);
        assert_eq!(rows(5, Table::Features, 4, 2, 3), whole[12..18]);
        assert_ne!(rows(5, Table::Targets, 0, 10, 3), whole);
        assert_ne!(rows(6, Table::Features, 0, 10, 3), whole);
        assert_eq!(names(Table::Targets, 2), ["y0", "y1"]);
    }

    #[test]
    fn published_numbers_stay_as_they_are() {
        // From `docs/rng.md`: seed 42, features, row 0.
        assert_eq!(rows(42, Table::Features, 0, 1, 4), [-0.293_728_44, 0.313_598_2, -1.267_355_6, -0.534_682_5]);
    }
}
