use super::*;

fn row(line: usize, question: &str, arguments: Value) -> Row {
    let place = Place {
        file: "f".into(),
        line,
    };
    let value = json!({"messages": [
        {"role": "user", "content": question},
        {"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": arguments}}]}
    ], "tools": [{"name": "t", "parameters": {"type": "object", "properties": {"n": {"maximum": 14}}}}]});
    Row {
        place,
        value: Ok(value),
    }
}

#[test]
fn rows_that_differ_only_in_form_are_duplicates() {
    let mut audit = Audit::default();
    assert!(
        audit
            .row(row(1, "q", json!({"n": 14, "m": 1})))
            .fixed
            .is_some()
    );
    let second = audit.row(row(2, "q", json!("{\"m\": 1, \"n\": 14}")));
    assert_eq!(second.findings, ["the same row as f:1"]);
    assert!(second.fixed.is_none());
    let third = audit.row(row(3, "q", json!({"n": 15})));
    assert_eq!(
        third.findings,
        ["message 1 tool_call 0: parameter 'n' is 15, above the maximum 14"]
    );
    let summary = audit.summary();
    assert_eq!(
        (
            summary.rows,
            summary.bad_rows,
            summary.duplicates,
            summary.arguments_as_text
        ),
        (3, 2, 1, 1)
    );
}

#[test]
fn a_question_of_the_other_file_is_a_leak_whatever_its_answer() {
    let mut audit = Audit::default();
    audit.note_other(row(9, "held out", json!({"n": 1})));
    assert!(
        audit
            .row(row(1, "own", json!({"n": 1})))
            .findings
            .is_empty()
    );
    assert_eq!(
        audit.row(row(2, "held out", json!({"n": 2}))).findings,
        ["the same question stands at f:9"]
    );
    assert_eq!(audit.summary().leaked, 1);
}
