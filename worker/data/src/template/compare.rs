//! Operators that compare as those of Python do: `<` and the like raise where minijinja orders
//! values of different types, and only a text is `in` a text. minijinja gives no way to change an
//! operator, so it becomes a filter in the text of the template, and a chain such as `a < b == c`
//! one filter of all its operands. Unlike Python, that filter evaluates every operand even if the
//! first comparison fails.

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, State, Value};

use super::comparable::{check_hashable, order, refusal};
use super::range::range_holds;
use super::walk::{Walk, word};

/// Each operator that becomes a filter, the filter, and the tests that compare alike.
const OPERATORS: [(&str, &str, &[&str]); 4] = [
    ("<=", "_le", &["le", "<="]),
    (">=", "_ge", &["ge", ">="]),
    ("<", "_lt", &["lt", "lessthan", "<"]),
    (">", "_gt", &["gt", "greaterthan", ">"]),
];
/// Filter of what `in` looks for.
const IN: &str = "_in";
/// Filter of a chain: the first operand, then each operator and the operand behind it.
const CHAIN: &str = "_chain";
/// What stands before a word: the `not` of a test, unlike that of an expression.
const IS_NOT: &str = "is not";
/// Brackets in brackets that are looked into. minijinja refuses what is nested deeper than 150.
const DEEPEST: usize = 200;

/// Adds the filters that operators become, and the tests that compare.
pub(super) fn install(env: &mut Environment<'static>) {
    for (operator, filter, tests) in OPERATORS {
        let holds = move |a: &Value, b: &Value| ordered(operator, a, b);
        env.add_filter(filter, holds);
        for test in tests {
            env.add_test(*test, holds);
        }
    }
    env.add_test("_in", minijinja::tests::is_in);
    env.add_test("in", is_in);
    env.add_filter(IN, is_in);
    env.add_filter(CHAIN, chain);
}

/// Whether `a` and `b` are as the `operator` says, one of [`OPERATORS`].
fn ordered(operator: &str, a: &Value, b: &Value) -> Result<bool, Error> {
    let order = order(a, b).map_err(|e| refusal(operator, e))?;
    Ok(order.is_some_and(|order| match operator {
        "<=" => order.is_le(),
        ">=" => order.is_ge(),
        "<" => order.is_lt(),
        _ => order.is_gt(),
    }))
}

/// `first < a == b` and so on, up to the first comparison that does not hold.
fn chain(state: &mut State, first: Value, rest: Rest<Value>) -> Result<bool, Error> {
    let mut left = &first;
    for pair in rest.chunks_exact(2) {
        let (operator, right) = (pair[0].as_str().unwrap_or_default(), &pair[1]);
        let holds = match operator {
            "==" => left == right,
            "!=" => left != right,
            "in" => is_in(state, left, right)?,
            "not in" => !is_in(state, left, right)?,
            _ => ordered(operator, left, right)?,
        };
        if !holds {
            return Ok(false);
        }
        left = right;
    }
    Ok(true)
}

fn is_in(state: &mut State, value: &Value, container: &Value) -> Result<bool, Error> {
    let is_container =
        container.is_undefined() || container.as_str().is_some() || container.as_object().is_some();
    if !is_container || (container.as_str().is_some() && value.as_str().is_none()) {
        return Err(refusal("in", (value.kind(), container.kind())));
    }
    if let Some(holds) = range_holds(container, value) {
        return Ok(holds);
    }
    if container.kind() == ValueKind::Map {
        check_hashable("in", value)?;
    }
    state.perform_test("_in", &[value.clone(), container.clone()])
}

/// `tag`, what stands between the brackets of a tag, with filters in place of comparisons. `block`
/// is for `{%`.
pub(super) fn rewrite(tag: &str, block: bool) -> String {
    let start = tag.len() - tag.trim_start_matches(['-', '+']).len();
    let end = start + tag[start..].trim_end_matches(['-', '+']).len();
    let mut body = start;
    if block {
        // The first word is the statement's.
        let name = tag[start..end].trim_start();
        body = end - name.trim_start_matches(is_part).len();
        if name.starts_with("for") {
            body = word(&tag[..end], "in", body).map_or(body, |at| at + 2);
        }
    }
    format!(
        "{}{}{}",
        &tag[..body],
        expression(&tag[body..end], 0),
        &tag[end..]
    )
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// What an expression is made of where no bracket or quotation mark is open.
#[derive(Clone, Copy, PartialEq)]
enum Token {
    /// It compares what stands before and behind it.
    Comparison,
    /// No comparison reaches over it.
    Boundary,
}

/// `text`, which stands in `depth` brackets, with each comparison as a filter.
fn expression(text: &str, depth: usize) -> String {
    if depth > DEEPEST {
        return text.to_owned();
    }
    let (mut out, mut chain) = (String::with_capacity(text.len()), Chain::default());
    let mut start = 0;
    for (token, at, length) in tokens(text) {
        chain.operands.push(&text[start..at]);
        match token {
            Token::Comparison => chain.operators.push(&text[at..at + length]),
            Token::Boundary => {
                out.push_str(&std::mem::take(&mut chain).rewritten(depth));
                out.push_str(&text[at..at + length]);
            }
        }
        start = at + length;
    }
    chain.operands.push(&text[start..]);
    out + &chain.rewritten(depth)
}

/// One comparison or several: an operator stands behind each operand but the last.
#[derive(Default)]
struct Chain<'a> {
    operands: Vec<&'a str>,
    operators: Vec<&'a str>,
}

impl Chain<'_> {
    fn rewritten(self, depth: usize) -> String {
        let filters: Vec<Option<&str>> = self
            .operators
            .iter()
            .map(|operator| filter(operator))
            .collect();
        let operands: Vec<String> = self
            .operands
            .iter()
            .map(|operand| brackets(operand, depth))
            .collect();
        if filters.iter().all(Option::is_none) {
            let behind = self.operators.iter().copied().chain([""]);
            return operands
                .iter()
                .zip(behind)
                .map(|(operand, operator)| format!("{operand}{operator}"))
                .collect();
        }
        let left = operands[0].trim();
        let compared = match (&filters[..], &self.operators[..]) {
            ([Some(filter)], [operator]) if operator.starts_with("not") => {
                format!("not (({left}) | {filter}(({})))", operands[1].trim())
            }
            ([Some(filter)], _) => format!("({left}) | {filter}(({}))", operands[1].trim()),
            _ => {
                let name =
                    |operator: &str| operator.split_whitespace().collect::<Vec<_>>().join(" ");
                let pairs = self.operators.iter().zip(&operands[1..]);
                let pairs: Vec<_> = pairs
                    .map(|(by, right)| format!("'{}', ({})", name(by), right.trim()))
                    .collect();
                format!("({left}) | {CHAIN}({})", pairs.join(", "))
            }
        };
        // The spaces around keep words apart.
        let (first, last) = (&operands[0], &operands[operands.len() - 1]);
        let before = &first[..first.len() - first.trim_start().len()];
        let after = &last[last.trim_end().len()..];
        format!("{before}({compared}){after}")
    }
}

/// The filter that an operator becomes.
fn filter(operator: &str) -> Option<&'static str> {
    let plain = OPERATORS
        .iter()
        .find(|(name, _, _)| *name == operator)
        .map(|(_, filter, _)| *filter);
    plain.or(operator.ends_with("in").then_some(IN))
}

/// `text`, which compares nothing itself and stands in `outer` brackets, with what stands in its
/// own rewritten.
fn brackets(text: &str, outer: usize) -> String {
    let (mut out, mut walk, mut start) = (String::with_capacity(text.len()), Walk::default(), 0);
    for (at, c) in text.char_indices() {
        let depth = walk.depth();
        walk.step(c);
        if depth == 0 && walk.depth() == 1 {
            out.push_str(&text[start..=at]);
            start = at + 1;
        } else if depth == 1 && walk.depth() == 0 {
            out.push_str(&expression(&text[start..at], outer + 1));
            start = at;
        }
    }
    out + &text[start..]
}

/// Where each token stands in `text`, and its length.
fn tokens(text: &str) -> Vec<(Token, usize, usize)> {
    let (mut tokens, mut walk, mut at, mut before) = (Vec::new(), Walk::default(), 0, "");
    while let Some(c) = text[at..].chars().next() {
        let free = !walk.quoted() && walk.depth() == 0;
        // Looked for where it counts alone: within brackets it would be for each of its letters.
        let word = match free {
            true => text[at..].len() - text[at..].trim_start_matches(is_part).len(),
            false => 0,
        };
        if word > 0 {
            let (token, length) = keyword(&text[at..], word, before);
            tokens.extend(token.map(|token| (token, at, length)));
            let said = &text[at..at + length];
            (before, at) = (
                if said == "not" && before == "is" {
                    IS_NOT
                } else {
                    said
                },
                at + length,
            );
            continue;
        }
        let (token, length) = if free {
            sign(&text[at..])
        } else {
            (None, c.len_utf8())
        };
        tokens.extend(token.map(|token| (token, at, length)));
        walk.step(c);
        if !c.is_whitespace() {
            before = &text[at..at + length];
        }
        at += length;
    }
    tokens
}

/// What the word is that `text` begins with, and its length; `before` stands before it.
fn keyword(text: &str, length: usize, before: &str) -> (Option<Token>, usize) {
    match &text[..length] {
        // The name of an attribute.
        _ if before == "." => (None, length),
        "and" | "or" | "if" | "else" | "recursive" => (Some(Token::Boundary), length),
        // The test: `x is in y`.
        "in" | "not" if before == "is" || before == IS_NOT => (None, length),
        "in" => (Some(Token::Comparison), length),
        "not" => {
            let behind = text[length..].trim_start();
            let is_in = behind
                .strip_prefix("in")
                .is_some_and(|rest| !rest.starts_with(is_part));
            let reach = text.len() - behind.len() + 2;
            if is_in {
                (Some(Token::Comparison), reach)
            } else {
                (Some(Token::Boundary), length)
            }
        }
        _ => (None, length),
    }
}

/// What the sign is that `text` begins with, and its length.
fn sign(text: &str) -> (Option<Token>, usize) {
    for operator in ["<=", ">=", "==", "!=", "<", ">"] {
        if text.starts_with(operator) {
            return (Some(Token::Comparison), operator.len());
        }
    }
    let length = text.chars().next().map_or(0, char::len_utf8);
    (
        text.starts_with([',', ':', '=']).then_some(Token::Boundary),
        length,
    )
}

#[cfg(test)]
mod tests;
