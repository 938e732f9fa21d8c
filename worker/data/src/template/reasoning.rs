//! Reasoning in front of an answer: the tokens that open and close it, and prompts that open it for
//! the model.

use super::differ::{bracketed, last_token};

/// `prompt` without the reasoning that it opens: where the turn has reasoning, all of it is the
/// assistant's.
pub(super) fn without_reasoning(prompt: &str) -> &str {
    let inner = prompt.trim_end();
    // Gemma's marker is a token and a word.
    if let Some(rest) = inner
        .strip_suffix("<channel|>")
        .map_or(inner, str::trim_end)
        .strip_suffix("<|channel>thought")
    {
        return rest;
    }
    let Some(token) = last_token(inner).filter(is_reasoning) else {
        return prompt;
    };
    let inner = &inner[..inner.len() - token.len()];
    if !closes(token) {
        return inner;
    }
    let opened = inner.trim_end();
    match last_token(opened).filter(is_reasoning) {
        Some(token) if !closes(token) => &opened[..opened.len() - token.len()],
        _ => prompt,
    }
}

fn is_reasoning(token: &&str) -> bool {
    token.to_lowercase().contains("think")
}

/// Where the first token of reasoning stands in `text`.
pub(super) fn reasoning_token(text: &str) -> Option<usize> {
    let token = |at: usize| bracketed(&text[at..]).map(|length| &text[at..at + length]);
    text.char_indices()
        .map(|(at, _)| at)
        .find(|at| token(*at).is_some_and(|token| is_reasoning(&token)))
}

/// Whether a token of reasoning ends it.
fn closes(token: &str) -> bool {
    token.starts_with("</") || token.starts_with("[/") || token.to_lowercase().contains("end")
}

/// `text` behind the reasoning that it begins with, without white space around it: what many
/// templates write of earlier answers.
pub(super) fn spoken(text: &str) -> &str {
    let mut ends = text.char_indices().filter_map(|(at, _)| {
        let length = bracketed(&text[at..])?;
        let token = &text[at..at + length];
        (is_reasoning(&token) && closes(token)).then_some(at + length)
    });
    text[ends.next_back().unwrap_or(0)..].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasoning_of_a_prompt_is_told_from_its_header() {
        for (prompt, header) in [
            ("<|bot|>", "<|bot|>"),
            ("<|bot|>\n<think>\n", "<|bot|>\n"),
            ("<|bot|>\n<think>\n\n</think>\n\n", "<|bot|>\n"),
            ("[bot][THINK]", "[bot]"),
            (
                "<|turn>model\n<|channel>thought\n<channel|>",
                "<|turn>model\n",
            ),
        ] {
            assert_eq!(without_reasoning(prompt), header, "{prompt}");
        }
    }

    #[test]
    fn what_is_said_stands_behind_the_reasoning() {
        for (text, said) in [
            (" a\n", "a"),
            ("<think>\nr\n</think>\n\na", "a"),
            ("r</think>a </think> b", "b"),
            ("[THINK]r[/THINK]a", "a"),
            ("I <b>think</b> so", "I <b>think</b> so"),
        ] {
            assert_eq!(spoken(text), said, "{text}");
        }
    }
}
