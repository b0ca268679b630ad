//! Curves drawn with text. Pure but for the last function, which prints.

use anstyle::AnsiColor;

use super::{Output, text};
use crate::cli::Failure;

/// Rows of a chart.
const HEIGHT: usize = 14;

/// Columns of a chart where nothing limits it, and at least.
const WIDTH_MOST: usize = 100;
const WIDTH_LEAST: usize = 20;

/// Columns of the labels at its left.
const LABELS: usize = 11;

/// How curves are drawn, each in its own way and colour.
const MARKS: [char; 6] = ['*', 'o', '+', 'x', '#', '@'];
const COLOURS: [AnsiColor; 6] =
    [AnsiColor::Cyan, AnsiColor::Yellow, AnsiColor::Magenta, AnsiColor::Green, AnsiColor::Blue, AnsiColor::Red];

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its points, by step.
    pub points: Vec<(u64, f64)>,
}

/// A place of a chart: the curve that goes through it.
type Grid = Vec<Vec<Option<usize>>>;

/// The least and the greatest of something.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    least: f64,
    most: f64,
}

impl Range {
    /// Of finite values; nothing where there are none.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        values.filter(|value| value.is_finite()).fold(None, |range: Option<Self>, value| {
            let range = range.unwrap_or(Self { least: value, most: value });
            Some(Self { least: range.least.min(value), most: range.most.max(value) })
        })
    }

    /// Where a value lies, in one of `cells`.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "cells of a chart"
    )]
    fn cell(self, value: f64, cells: usize) -> usize {
        let width = self.most - self.least;
        let share = if width > 0.0 { (value - self.least) / width } else { 0.5 };
        ((share * cells as f64) as usize).min(cells.saturating_sub(1))
    }
}

/// Puts curves on a grid, lowest row first: in each column the mean of what falls into it. The earlier curve is in front.
#[expect(clippy::cast_precision_loss, reason = "steps of a chart")]
fn grid(series: &[&Series], (steps, values): (Range, Range), width: usize, scale: fn(f64) -> f64) -> Grid {
    let mut grid = vec![vec![None; width]; HEIGHT];
    for (index, one) in series.iter().enumerate().rev() {
        let mut columns = vec![(0.0, 0_u32); width];
        for (step, value) in
            one.points.iter().map(|(step, value)| (*step, scale(*value))).filter(|(_, value)| value.is_finite())
        {
            let (sum, count) = &mut columns[steps.cell(step as f64, width)];
            *sum += value;
            *count += 1;
        }
        for (column, (sum, count)) in columns.into_iter().enumerate().filter(|(_, (_, count))| *count > 0) {
            grid[values.cell(sum / f64::from(count), HEIGHT)][column] = Some(index);
        }
    }
    grid
}

/// The lines of a chart, with its axes and, where there are several curves, what they are. `paint` gives a curve's text its colour.
#[expect(clippy::cast_precision_loss, reason = "steps of a chart")]
fn lines(series: &[&Series], width: usize, is_log: bool, paint: impl Fn(usize, &str) -> String) -> Vec<String> {
    let scale = if is_log { f64::log10 } else { |value| value };
    let points = || series.iter().flat_map(|one| &one.points);
    let steps = Range::of(points().map(|(step, _)| *step as f64));
    let values = Range::of(points().map(|(_, value)| scale(*value)));
    let (Some(steps), Some(values)) = (steps, values) else {
        return vec!["  there is nothing to draw: no value is finite, or, with --log, positive".into()];
    };
    let unscale = |value: f64| if is_log { 10_f64.powf(value) } else { value };
    let label = |row: usize| match row {
        row if row + 1 == HEIGHT => text::number(unscale(values.most)),
        row if row == HEIGHT / 2 => text::number(unscale((values.least + values.most) / 2.0)),
        0 => text::number(unscale(values.least)),
        _ => String::new(),
    };
    let grid = grid(series, (steps, values), width, scale);
    let mut lines: Vec<String> = grid
        .iter()
        .enumerate()
        .rev()
        .map(|(row, cells)| {
            let cells: String = cells
                .iter()
                .map(|cell| match cell {
                    Some(index) => paint(*index, &MARKS[index % MARKS.len()].to_string()),
                    None => " ".into(),
                })
                .collect();
            format!("{:>width$} |{cells}", label(row), width = LABELS - 2).trim_end().to_owned()
        })
        .collect();
    lines.push(format!("{:>width$} +{}", "", "-".repeat(width), width = LABELS - 2));
    let (first, last) = (format!("{}", steps.least), format!("step {}", steps.most));
    let gap = width.saturating_sub(first.len() + last.len());
    lines.push(format!("{:LABELS$}{first}{}{last}", "", " ".repeat(gap)));
    let legend = series.iter().enumerate().map(|(index, one)| {
        let mark = MARKS[index % MARKS.len()];
        let value =
            one.points.last().map_or_else(String::new, |(_, value)| format!(" (last {})", text::number(*value)));
        paint(index, &format!("{mark} {}{value}", text::visible_line(&one.name)))
    });
    lines.push(format!("{:LABELS$}{}", "", legend.collect::<Vec<_>>().join("   ")));
    lines
}

/// Draws curves as wide as the terminal.
pub fn draw(out: &mut Output, heading: &str, series: &[&Series], is_log: bool) -> Result<(), Failure> {
    let columns = out.screen.map_or(WIDTH_MOST, |screen| screen.columns);
    let width = columns.saturating_sub(LABELS + 1).clamp(WIDTH_LEAST, WIDTH_MOST);
    let lines =
        lines(series, width, is_log, |index, text| out.styled(COLOURS[index % COLOURS.len()].on_default(), text));
    out.line(text::visible_line(heading))?;
    lines.iter().try_for_each(|line| out.line(line))?;
    out.line("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, points: &[(u64, f64)]) -> Series {
        Series { name: name.into(), points: points.to_vec() }
    }

    fn drawn(series: &[&Series], width: usize, is_log: bool) -> Vec<String> {
        lines(series, width, is_log, |_, text| text.to_owned())
    }

    #[test]
    fn a_falling_line_falls() {
        let line = series("train_loss", &(0..28).map(|step| (step, 28.0 - step as f64)).collect::<Vec<_>>());
        let drawn = drawn(&[&line], 14, false);
        assert_eq!(drawn[0], "  28.0000 |*");
        assert_eq!(drawn[13], "   1.0000 |             *");
        assert_eq!(drawn[14], "          +--------------");
        assert_eq!(drawn[15], "           0      step 27");
        assert_eq!(drawn[16], "           * train_loss (last 1.0000)");
        for (row, line) in drawn[..14].iter().enumerate() {
            assert_eq!(line.chars().skip(11).position(|c| c == '*'), Some(row), "{line}");
        }
    }

    #[test]
    fn curves_have_marks_of_their_own_and_the_first_is_in_front() {
        let one = series("a", &[(0, 1.0), (10, 2.0)]);
        let two = series("b", &[(0, 1.0), (10, 1.0)]);
        let drawn = drawn(&[&one, &two], 10, false);
        assert_eq!(drawn[0], "   2.0000 |         *");
        assert_eq!(drawn[13], "   1.0000 |*        o");
        assert_eq!(drawn[16], "           * a (last 2.0000)   o b (last 1.0000)");
    }

    #[test]
    fn odd_values_are_drawn_as_far_as_they_can_be() {
        let flat = series("a", &[(5, 3.0)]);
        assert!(drawn(&[&flat], 10, false).iter().any(|line| line.contains('*')));
        let strange = series("a", &[(0, f64::NAN), (1, f64::INFINITY)]);
        assert!(drawn(&[&strange], 10, false)[0].contains("nothing to draw"));
        let negative = series("a", &[(0, -1.0), (1, 0.0)]);
        assert!(drawn(&[&negative], 10, true)[0].contains("nothing to draw"));
        let wide = series("a", &[(0, 1.0), (1, 10.0), (2, 100.0)]);
        assert_eq!(drawn(&[&wide], 10, true)[6], "  10.0000 |     *", "half way on a logarithmic scale");
    }
}
