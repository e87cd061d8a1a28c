//! What is kept of a benchmark: a table to read, and everything for whoever asks later.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::bench::Run;
use crate::stats::Summary;

/// All runs of all measurements, for one or more programs.
#[derive(Debug, Serialize)]
pub struct Report {
    /// When it was begun, in seconds since 1970.
    pub began: u64,
    /// The kernel of the machine.
    pub kernel: String,
    /// Its processors.
    pub cpus: usize,
    /// How many wanted to run when it was begun and when it was written: on a machine that others use, figures hold only
    /// beside each other.
    pub load: [f64; 2],
    /// Whether the programs went before what else ran.
    pub with_precedence: bool,
    /// What the programs that were measured are called. Others are compared with the first.
    pub programs: Vec<String>,
    /// Every run.
    pub runs: Vec<ProgramRun>,
}

/// A run, and of what.
#[derive(Debug, Serialize)]
pub struct ProgramRun {
    /// Which of the report's programs.
    pub program: usize,
    /// The measurement.
    pub measurement: &'static str,
    /// What it found.
    #[serde(flatten)]
    pub run: Run,
}

/// What one program came to, in the order in which things were measured.
#[derive(Debug, Serialize)]
struct ProgramSummary {
    program: usize,
    #[serde(flatten)]
    summary: Summary,
}

impl Report {
    /// A report without runs.
    #[must_use]
    pub fn begin(programs: Vec<String>, with_precedence: bool) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            began: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            kernel: kernel.trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            load: [load(), 0.0],
            with_precedence,
            programs,
            runs: Vec::new(),
        }
    }

    fn summaries(&self) -> Vec<ProgramSummary> {
        let mut order = Vec::new();
        let mut values: BTreeMap<(&str, usize), Vec<f64>> = BTreeMap::new();
        for run in &self.runs {
            for (what, value) in &run.run.values {
                if !order.contains(&what.as_str()) {
                    order.push(what);
                }
                values.entry((what, run.program)).or_default().push(*value);
            }
        }
        let programs = 0..self.programs.len();
        let keys = order
            .into_iter()
            .flat_map(|what| programs.clone().map(move |program| (what, program)));
        keys.filter_map(|key| {
            let summary = Summary::of(key.0, values.get(&key)?)?;
            Some(ProgramSummary {
                program: key.1,
                summary,
            })
        })
        .collect()
    }

    /// The table: a line for each value of each program. Below the first one's the others', and how many times the first
    /// one's they are, run by run.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = format!("{:<86} {:>9} {:>9} {:>9}\n", "what", "median", "least", "greatest");
        let summaries = self.summaries();
        for ProgramSummary { program, summary } in &summaries {
            let first = summaries
                .iter()
                .find(|s| s.program == 0 && s.summary.what == summary.what);
            let what = match self.programs.len() {
                1 => summary.what.clone(),
                _ => format!("{}: {}", self.programs[*program], summary.what),
            };
            line(&mut table, &what, summary);
            if let Some(ratio) = first
                .filter(|_| *program > 0)
                .and_then(|first| ratio(summary, &first.summary))
            {
                let what = format!("    {} / {}", self.programs[*program], self.programs[0]);
                line(&mut table, &what, &ratio);
            }
        }
        table
    }

    /// Everything, as JSON.
    ///
    /// # Errors
    ///
    /// Never, as far as is known.
    pub fn to_json(&mut self) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Whole<'a> {
            summaries: Vec<ProgramSummary>,
            #[serde(flatten)]
            report: &'a Report,
        }
        self.load[1] = load();
        serde_json::to_vec(&Whole {
            summaries: self.summaries(),
            report: self,
        })
    }
}

fn line(table: &mut String, what: &str, summary: &Summary) {
    let Summary {
        median,
        least,
        greatest,
        ..
    } = summary;
    let _ = writeln!(table, "{what:<86} {median:>9.2} {least:>9.2} {greatest:>9.2}");
}

/// How many times `first` `other` is, of runs that were made one after the other: what the machine did meanwhile does to
/// both.
fn ratio(other: &Summary, first: &Summary) -> Option<Summary> {
    let pairs = other.raw.iter().zip(&first.raw);
    let ratios: Vec<_> = pairs
        .filter(|(_, first)| **first > 0.0)
        .map(|(other, first)| other / first)
        .collect();
    Summary::of("", &ratios)
}

/// How many threads have wanted to run in the last minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_stand_below_each_other_and_nothing_is_lost() {
        let mut report = Report::begin(vec!["a".into(), "b".into()], false);
        for (program, value) in [(0, 3.0), (1, 5.0), (0, 1.0), (1, 7.0)] {
            let values = vec![("start, ms".to_owned(), value), ("size, MiB".to_owned(), 2.0)];
            report.runs.push(ProgramRun {
                program,
                measurement: "start",
                run: Run {
                    values,
                    ..Run::default()
                },
            });
        }
        let table = report.table();
        let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<_> = table.lines().skip(1).map(columns).collect();
        assert_eq!(lines[0], ["a:", "start,", "ms", "2.00", "1.00", "3.00"]);
        assert_eq!(lines[1], ["b:", "start,", "ms", "6.00", "5.00", "7.00"]);
        // 5 beside 3 and 7 beside 1: pairs of runs, and not the ratio of the medians.
        assert_eq!(lines[2], ["b", "/", "a", "4.33", "1.67", "7.00"]);
        assert_eq!(lines.len(), 6, "{table}");
        let json: serde_json::Value = serde_json::from_slice(&report.to_json().expect("sound")).expect("JSON");
        assert_eq!(json["summaries"][1]["raw"], serde_json::json!([5.0, 7.0]));
        assert_eq!(json["runs"][3]["values"][0][1], 7.0);
    }
}
