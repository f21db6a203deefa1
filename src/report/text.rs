//! Numbers and tables for people.

use super::PerTarget;

/// Named values in two columns.
///
/// ```
/// use nystream::report::text::Pairs;
/// let mut pairs = Pairs::default();
/// pairs.add("rows", 3).maybe("bad rows", None::<u64>).add("r2", "0.97");
/// assert_eq!(pairs.render(), "rows  3\nr2    0.97\n");
/// ```
#[derive(Debug, Default)]
pub struct Pairs {
    rows: Vec<(String, String)>,
}

impl Pairs {
    /// Adds a line.
    pub fn add(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.rows.push((name.to_string(), value.to_string()));
        self
    }

    /// Adds a line where there is a value.
    pub fn maybe(&mut self, name: &str, value: Option<impl ToString>) -> &mut Self {
        if let Some(value) = value {
            self.add(name, value);
        }
        self
    }

    /// The lines, aligned.
    pub fn render(&self) -> String {
        let width = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        self.rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
    }
}

/// A table with a header; columns of numbers are aligned to the right, empty cells aside. No line ends with a space.
///
/// ```
/// use nystream::report::text::table;
/// let rows = [vec!["gaussian".to_string(), "1.5".into()], vec!["laplace".into(), "12.25".into()]];
/// assert_eq!(table(&["kernel", "rmse"], &rows), "\
/// kernel     rmse
/// gaussian    1.5
/// laplace   12.25
/// ");
/// ```
///
/// # Panics
/// If a row has fewer cells than the header.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let is_number = |cell: &str| cell.strip_prefix('-').unwrap_or(cell).starts_with(|c: char| c.is_ascii_digit());
    let numeric = |column: usize| {
        let mut cells = rows.iter().map(|row| row[column].as_str()).filter(|cell| !cell.is_empty()).peekable();
        cells.peek().is_some() && cells.all(is_number)
    };
    let widths: Vec<usize> = (0..header.len())
        .map(|c| rows.iter().map(|r| r[c].chars().count()).chain([header[c].chars().count()]).max().unwrap_or(0))
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .enumerate()
            .map(|(c, cell)| {
                let width = widths[c];
                if numeric(c) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            })
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// Four significant digits, plain where that is short.
///
/// ```
/// use nystream::report::text::number;
/// assert_eq!(number(0.123456), "0.1235");
/// assert_eq!(number(12345.6), "12346");
/// assert_eq!(number(2e14), "2.000e14");
/// assert_eq!(number(1e-9), "1.000e-9");
/// ```
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_string()
    } else if !(1e-3..1e7).contains(&size) {
        format!("{value:.3e}")
    } else {
        let digits = (3 - size.log10().floor() as i32).max(0) as usize;
        format!("{value:.digits$}")
    }
}

/// A value per target, separated by commas, as [`number`] writes them.
///
/// ```
/// assert_eq!(nystream::report::text::per_target(&vec![0.5, 12345.6].into()), "0.5000, 12346");
/// ```
pub fn per_target(value: &PerTarget) -> String {
    value.values().iter().map(|v| number(*v)).collect::<Vec<_>>().join(", ")
}

/// A count with thousands separated.
///
/// ```
/// assert_eq!(nystream::report::text::count(1234567), "1,234,567");
/// ```
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of what `one` names.
///
/// ```
/// use nystream::report::text::plural;
/// assert_eq!([plural(1, "worker"), plural(2, "process")], ["1 worker", "2 processes"]);
/// ```
pub fn plural(value: u64, one: &str) -> String {
    let ending = match (value, one.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{} {one}{ending}", count(value))
}

/// Bytes in the largest binary unit.
///
/// ```
/// assert_eq!(nystream::report::text::bytes(3 << 29), "1.50 GiB");
/// ```
pub fn bytes(value: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(scale, _)| value >= *scale) {
        Some((scale, unit)) => format!("{:.2} {unit}", value as f64 / *scale as f64),
        None => format!("{value} B"),
    }
}

/// Seconds, in a unit that suits them.
///
/// ```
/// use nystream::report::text::seconds;
/// assert_eq!((seconds(0.0042).as_str(), seconds(75.0).as_str()), ("4.2 ms", "1 min 15 s"));
/// ```
pub fn seconds(value: f64) -> String {
    match value {
        v if v < 1.0 => format!("{:.1} ms", v * 1e3),
        v if v < 60.0 => format!("{v:.1} s"),
        v if v < 3600.0 => format!("{} min {:.0} s", (v / 60.0).floor(), (v % 60.0).floor()),
        v => format!("{} h {:.0} min", (v / 3600.0).floor(), (v % 3600.0 / 60.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["gaussian".into(), "1.5".into()], vec!["ntk".into(), "12.25".into()]];
        assert_eq!(table(&["kernel", "rmse"], &rows), "kernel     rmse\ngaussian    1.5\nntk       12.25\n");
        let mut pairs = Pairs::default();
        pairs.add("rows", 3).maybe("absent", None::<u8>).add("x", "y");
        assert_eq!(pairs.render(), "rows  3\nx     y\n");
    }
}
