//! Renders a conversation with a chat template, and shows what of it is trained on.
//!
//! ```sh
//! cargo run --release -p qlora-data --example loss_mask -- [ROWS.jsonl]
//! ```

use std::error::Error;
use std::path::Path;

use qlora_data::{ChatTemplate, Conversation, Rendered, SpecialTokens, rows};
use serde_json::{Value, json};

fn example() -> Value {
    json!({
        "messages": [
            {"role": "user", "content": "How warm is it in Lima?"},
            {"role": "assistant", "tool_calls": [
                {"function": {"name": "weather", "arguments": {"city": "Lima"}}},
            ]},
            {"role": "tool", "content": "19 degrees"},
            {"role": "assistant", "content": "It is 19 degrees."},
        ],
        "tools": [{"name": "weather", "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}},
        }}],
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let row = match std::env::args().nth(1) {
        Some(file) => {
            rows::open(Path::new(&file), &file)?
                .next()
                .ok_or("the file has no row")??
                .value?
        }
        None => example(),
    };
    // A model's own template is read by `ModelText::open`; this one is built in.
    let template = ChatTemplate::new("chatml-tools", SpecialTokens::default())?;
    let rendered = template.render(&Conversation::from_value(row)?)?;
    println!("{}", marked(&rendered));
    Ok(())
}

/// The text with `>>>` and `<<<` around what is trained on.
fn marked(rendered: &Rendered) -> String {
    let mut text = rendered.text.clone();
    for range in rendered.assistant.iter().rev() {
        text.insert_str(range.end, "<<<");
        text.insert_str(range.start, ">>>");
    }
    text
}
