//! What was measured, as JSON while it is measured and as a table at the end.

use std::time::Duration;

use serde_json::Value;

/// Rows of the table.
#[derive(Default)]
pub struct Report {
    rows: Vec<(String, String)>,
}

impl Report {
    /// One line of JSON.
    pub fn line(&self, measured: &Value) {
        println!("{measured}");
    }

    /// A row of the table, and a line of JSON.
    pub fn row(&mut self, what: &str, value: f64, unit: &str) {
        self.line(&serde_json::json!({ "what": what, "value": value, "unit": unit }));
        self.rows
            .push((what.to_owned(), format!("{value:.2} {unit}")));
    }

    /// The rows for p50, p99 and the longest of `times`.
    pub fn percentiles(&mut self, what: &str, times: &mut [Duration]) {
        times.sort_unstable();
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
            self.row(&format!("{what}, {name}"), at(times, share), "ms");
        }
    }

    pub fn print_table(&self) {
        println!("\n| | measured |\n|---|---|");
        for (what, value) in &self.rows {
            println!("| {what} | {value} |");
        }
    }
}

/// Milliseconds that `share` of `times`, which are sorted, do not exceed; 0 where there are none.
pub fn at(times: &[Duration], share: f64) -> f64 {
    let last = times.len().saturating_sub(1);
    let time = times.get((last as f64 * share).round() as usize);
    time.map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
