//! A table that fits the terminal: columns as wide as what is in them, and the last ones cut where the screen ends. Pure but for the style, which the output decides.

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
        let heads: Vec<_> = self.heads.iter().map(|(head, _)| Cell::from(head)).collect();
        let rows = std::iter::once(&heads).chain(&self.rows);
        rows.map(|row| {
            let mut line = String::new();
            for ((cell, (_, column)), width) in row.iter().zip(&self.heads).zip(&widths) {
                let shown = fit(&cell.text, *width);
                let padding = " ".repeat(width.saturating_sub(shown.width()));
                let painted = if cell.style == Style::new() { shown } else { paint(cell.style, &shown) };
                let cell = if *column == Column::Right { padding + &painted } else { painted + &padding };
                line.push_str(&cell);
                line.push_str(&" ".repeat(GAP));
            }
            line.trim_end().to_owned()
        })
        .collect()
    }

    /// The width of each column: the flexible ones give way from the last on, and where that is not enough, all of them.
    fn widths(&self, columns: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<_> = self.heads.iter().map(|(head, _)| head.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let Some(columns) = columns else { return widths };
        let mut excess = (widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)).saturating_sub(columns);
        let is_flexible = |index: usize| self.heads.get(index).is_some_and(|(_, column)| *column == Column::Flexible);
        for (least, all) in [(LEAST, false), (1, true)] {
            for (_, width) in widths.iter_mut().enumerate().rev().filter(|(index, _)| all || is_flexible(*index)) {
                let given = excess.min(width.saturating_sub(least));
                *width -= given;
                excess -= given;
            }
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
