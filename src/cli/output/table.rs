//! A table that fits the terminal: columns as wide as what is in them, the flexible ones cut and the spare ones left out where the screen ends. Pure but for the style, which the output decides.

use anstyle::Style;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::text;

/// Columns between two columns.
const GAP: usize = 2;

/// What a column that must give way keeps.
const LEAST: usize = 8;

/// A cell: text, and how it is shown where there is colour.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// The cell in a style.
    #[must_use]
    pub fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text::visible_line(text.as_ref()), style: Style::new() }
    }
}

/// Whether numbers, which stand right, are in a column; and whether it may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Stands left and is shown whole.
    Left,
    /// Stands right and is shown whole.
    Right,
    /// Stands left and gives way where the screen is narrow.
    Flexible,
    /// Stands left and is left out where the screen is narrower still.
    Spare,
    /// Stands right and is left out as well.
    SpareRight,
}

impl Column {
    const fn is_right(self) -> bool {
        matches!(self, Self::Right | Self::SpareRight)
    }

    const fn is_spare(self) -> bool {
        matches!(self, Self::Spare | Self::SpareRight)
    }
}

/// A table.
pub struct Table {
    heads: Vec<(&'static str, Column)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub fn new(heads: &[(&'static str, Column)]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: a cell a column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, the heads first, no wider than `columns`. `paint` gives text its style.
    pub fn lines(&self, columns: Option<usize>, paint: impl Fn(Style, &str) -> String) -> Vec<String> {
        let widths = self.widths(columns);
        let is_shown = |width: &usize| *width > 0;
        let heads: Vec<_> = self.heads.iter().map(|(head, _)| Cell::from(head)).collect();
        let rows = std::iter::once(&heads).chain(&self.rows);
        rows.map(|row| {
            let mut line = String::new();
            let cells = row.iter().zip(&self.heads).zip(&widths).filter(|(_, width)| is_shown(width));
            for ((cell, (_, column)), width) in cells {
                let shown = fit(&cell.text, *width);
                let padding = " ".repeat(width.saturating_sub(shown.width()));
                let painted = if cell.style == Style::new() { shown } else { paint(cell.style, &shown) };
                let cell = if column.is_right() { padding + &painted } else { painted + &padding };
                line.push_str(&cell);
                line.push_str(&" ".repeat(GAP));
            }
            line.trim_end().to_owned()
        })
        .collect()
    }

    /// The width of each column. Where the screen is too narrow, the flexible ones give way from the last on, then the spare ones are 0, then all give way.
    fn widths(&self, columns: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<_> = self.heads.iter().map(|(head, _)| head.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let Some(columns) = columns else { return widths };
        let excess = |widths: &[usize]| {
            let shown = widths.iter().filter(|width| **width > 0);
            (shown.clone().sum::<usize>() + GAP * shown.count().saturating_sub(1)).saturating_sub(columns)
        };
        let last_first = || self.heads.iter().enumerate().rev().map(|(index, (_, column))| (index, *column));
        let cut = |widths: &mut [usize], index: usize, least: usize| {
            widths[index] -= excess(widths).min(widths[index].saturating_sub(least));
        };
        for (index, _) in last_first().filter(|(_, column)| *column == Column::Flexible) {
            cut(&mut widths, index, LEAST);
        }
        for (index, _) in last_first().filter(|(_, column)| column.is_spare()) {
            if excess(&widths) > 0 {
                widths[index] = 0;
            }
        }
        for (index, _) in last_first() {
            cut(&mut widths, index, 1);
        }
        widths
    }
}

/// The text, or its beginning and an ellipsis.
fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        shown.push(c);
    }
    shown + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[("ID", Column::Right), ("NAME", Column::Flexible), ("REASON", Column::Flexible)]);
        table.row(["7", "digits", "waits for two CPUs that are in use"].map(Cell::from));
        table.row(["123", "größe-模型", "a\nb"].map(Cell::from));
        table
    }

    fn lines(columns: Option<usize>) -> Vec<String> {
        table().lines(columns, |_, text| text.to_owned())
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let expected =
            [" ID  NAME        REASON", "  7  digits      waits for two CPUs that are in use", "123  größe-模型  a b"];
        assert_eq!(lines(None), expected);
    }

    #[test]
    fn spare_columns_are_left_out_before_the_others_suffer() {
        let mut table = Table::new(&[
            ("ID", Column::Right),
            ("KIND", Column::Spare),
            ("PRIO", Column::SpareRight),
            ("STATE", Column::Left),
        ]);
        table.row(["7", "train", "50", "queued"].map(Cell::from));
        for (columns, line) in
            [(23, " 7  train    50  queued"), (22, " 7  train  queued"), (16, " 7  queued"), (9, " 7  queu…")]
        {
            let lines = table.lines(Some(columns), |_, text| text.to_owned());
            assert_eq!(lines[1], line, "{columns}");
        }
    }

    #[test]
    fn a_narrow_screen_cuts_the_last_columns_first() {
        assert_eq!(lines(Some(33))[1], "  7  digits      waits for two C…");
        for columns in [30, 27, 25, 23, 12] {
            for line in lines(Some(columns)) {
                assert!(line.width() <= columns, "{columns}: {line:?}");
            }
        }
        assert_eq!(lines(Some(23))[2], "123  größe-…   a b", "a wide character is not cut in two");
    }
}
