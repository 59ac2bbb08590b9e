//! Text in columns, as wide as they need to be and no wider than the lines may get.

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// What stands above it.
    pub title: &'static str,
    /// Whether its cells end where the column ends, as numbers do.
    pub is_right: bool,
    /// Characters to which it may be cut if the lines get too long; none if it may not.
    pub least: Option<usize>,
    /// Whether it may be left out where lines are too long all the same: those of the greatest number go first. 0
    /// stays.
    pub spare: u8,
}

impl Column {
    /// Text, whole.
    pub(super) const fn text(title: &'static str) -> Self {
        Self { title, is_right: false, least: None, spare: 0 }
    }

    /// Text that may be cut.
    pub(super) const fn elastic(title: &'static str, least: usize) -> Self {
        Self { title, is_right: false, least: Some(least), spare: 0 }
    }

    /// A number.
    pub(super) const fn number(title: &'static str) -> Self {
        Self { title, is_right: true, least: None, spare: 0 }
    }

    /// Lets it be left out.
    pub(super) const fn spare(self, spare: u8) -> Self {
        Self { spare, ..self }
    }
}

/// Lines of a table, the titles first. Each row has as many cells as there are columns; text of one cell stands beneath
/// the row alone, indented.
pub(super) fn lines(columns: &[Column], rows: &[Row], width: usize) -> Vec<String> {
    let widths = widths(columns, rows, width);
    let spare = columns.iter().map(|column| column.spare).max().unwrap_or(0);
    if spare > 0 && line_width(&widths) > width {
        let kept = || columns.iter().map(|column| column.spare < spare);
        let pick =
            |cells: &[String]| kept().zip(cells).filter(|(kept, _)| *kept).map(|(_, cell)| cell.clone()).collect();
        let rows: Vec<Row> = rows
            .iter()
            .map(|row| match row {
                Row::Cells(cells) => Row::Cells(pick(cells)),
                Row::Note(text) => Row::Note(text.clone()),
            })
            .collect();
        let columns: Vec<Column> = columns.iter().filter(|column| column.spare < spare).copied().collect();
        return lines(&columns, &rows, width);
    }
    let titles: Vec<String> = columns.iter().map(|column| column.title.to_owned()).collect();
    let mut lines = vec![line(columns, &widths, &titles)];
    for row in rows {
        match row {
            Row::Cells(cells) => lines.push(line(columns, &widths, cells)),
            Row::Note(text) => lines.push(format!("     {}", cut(text, width.saturating_sub(5)))),
        }
    }
    lines
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// A cell for each column.
    Cells(Vec<String>),
    /// A note on the row above.
    Note(String),
}

fn widths(columns: &[Column], rows: &[Row], width: usize) -> Vec<usize> {
    let mut widths: Vec<usize> = columns.iter().map(|column| chars(column.title)).collect();
    for row in rows {
        if let Row::Cells(cells) = row {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = chars(cell).max(*width);
            }
        }
    }
    let mut excess = line_width(&widths).saturating_sub(width);
    // The widest gives first.
    while excess > 0 {
        let elastic =
            columns.iter().zip(&mut widths).filter(|(column, width)| column.least.is_some_and(|least| **width > least));
        let Some((_, widest)) = elastic.max_by_key(|(_, width)| **width) else { break };
        *widest -= 1;
        excess -= 1;
    }
    widths
}

fn line_width(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + widths.len().saturating_sub(1)
}

fn line(columns: &[Column], widths: &[usize], cells: &[String]) -> String {
    let mut line = String::new();
    for ((column, width), cell) in columns.iter().zip(widths).zip(cells) {
        let cell = cut(cell, *width);
        let space = " ".repeat(width - chars(&cell));
        if !line.is_empty() {
            line.push(' ');
        }
        if column.is_right {
            line.push_str(&space);
            line.push_str(&cell);
        } else {
            line.push_str(&cell);
            line.push_str(&space);
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// The text, with an ellipsis in place of what is too much.
pub(super) fn cut(text: &str, width: usize) -> String {
    if chars(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [Column::text("A"), Column::elastic("NAME", 4), Column::number("COUNT")];

    fn row(cells: [&str; 3]) -> Row {
        Row::Cells(cells.map(str::to_owned).to_vec())
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [row(["1", "x", "7"]), row(["22", "Käse", "123456"]), Row::Note("why".to_owned())];
        assert_eq!(lines(&COLUMNS, &rows, 80), ["A  NAME  COUNT", "1  x         7", "22 Käse 123456", "     why"]);
    }

    #[test]
    fn what_may_be_cut_is_cut_and_nothing_else() {
        let rows = [row(["1", "a long name", "7"])];
        assert_eq!(lines(&COLUMNS, &rows, 16), ["A NAME     COUNT", "1 a long …     7"]);
        assert_eq!(lines(&COLUMNS, &rows, 3), ["A NAME COUNT", "1 a l…     7"]);
        let [first, second, third] = COLUMNS;
        let columns = [first, second.spare(1), third];
        assert_eq!(lines(&columns, &rows, 12), ["A NAME COUNT", "1 a l…     7"]);
        assert_eq!(lines(&columns, &rows, 11), ["A COUNT", "1     7"]);
    }
}
