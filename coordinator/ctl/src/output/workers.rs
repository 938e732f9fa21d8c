//! Workers as a table for people.

use qlora_proto::WorkerInfo;
use qlora_proto::words::gib;

use super::table::{number, table, text, word};

/// A row for each of `workers`, seen at `unix_ms`. Why some are drained stands in a column of its
/// own, where any is.
pub fn workers(workers: &[WorkerInfo], unix_ms: i64) -> String {
    let mut rows: Vec<Vec<String>> = workers.iter().map(row).collect();
    let mut columns = vec![
        text("WORKER", 0),
        word("DEVICE", 1),
        number("MEMORY", 2),
        word("STATE", 0),
        text("NAME", 3),
        text("VERSION", 4),
    ];
    if workers.iter().any(|worker| worker.drained.is_some()) {
        columns.push(text("DRAINED", 2));
        for (row, worker) in rows.iter_mut().zip(workers) {
            let drained = worker.drained.as_ref();
            row.push(
                drained
                    .map(|drain| drain.words(unix_ms))
                    .unwrap_or_default(),
            );
        }
    }
    table(&columns, &rows)
}

fn row(worker: &WorkerInfo) -> Vec<String> {
    let p = worker.platform.clone().unwrap_or_default();
    let state = match (worker.connected, worker.running_job) {
        (false, _) => "away".to_owned(),
        (true, 0) if worker.drained.is_some() => "drained".to_owned(),
        (true, 0) if !worker.set_aside.is_empty() => "set aside".to_owned(),
        (true, 0) if worker.draining => "draining".to_owned(),
        (true, 0) => "idle".to_owned(),
        (true, job) => format!("job {job}"),
    };
    vec![
        worker.name.clone(),
        p.device_class().word().into(),
        gib(p.device_memory),
        state,
        p.device_name,
        p.version,
    ]
}

#[cfg(test)]
mod tests {
    use qlora_proto::Drain;

    use super::*;

    #[test]
    fn the_column_of_drained_workers_is_there_where_one_is() {
        let worker = |name: &str, running_job, drained| WorkerInfo {
            name: name.into(),
            connected: true,
            running_job,
            drained,
            ..WorkerInfo::default()
        };
        let drain = Drain {
            since_unix_ms: 1_000,
            reason: "new\ndisk".into(),
        };
        let all = [
            worker("a", 0, Some(drain.clone())),
            worker("b", 3, Some(drain)),
            worker("c", 0, None),
        ];
        let told = workers(&all, 61_000);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 4, "{told}");
        assert!(lines[0].ends_with("DRAINED"), "{told}");
        let why = "for 1 min 00 s: new disk";
        assert!(
            lines[1].contains(" drained ") && lines[1].ends_with(why),
            "{told}"
        );
        assert!(
            lines[2].contains(" job 3 ") && lines[2].ends_with(why),
            "{told}"
        );
        assert!(lines[3].contains(" idle"), "{told}");
        assert!(!workers(&all[2..], 0).contains("DRAINED"));
    }
}
