//! What the help of a program, and its refusals, leave unsaid.

use std::any::TypeId;
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Arg, Command};

/// Commands and arguments below `command` whose help says nothing, or too much for one line of a
/// list.
pub fn without_words(command: &Command) -> Vec<String> {
    let mut found = Vec::new();
    let name = command.get_name();
    if command
        .get_about()
        .is_none_or(|about| about.to_string().contains('\n'))
    {
        found.push(name.to_owned());
    }
    let arguments = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set());
    let silent = arguments.filter(|argument| argument.get_help().is_none());
    found.extend(silent.map(|argument| format!("{name} {}", argument.get_id())));
    found.extend(shown(command).flat_map(without_words));
    found
}

/// Commands that the help of `command` lists.
pub fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|c| c.get_name() != "help" && !c.is_hide_set())
}

/// Calls of `command`, and of those below it, with something else in the place of a number, whose
/// refusals do not say which argument has it, what was given and what is taken; and how many
/// arguments take numbers.
pub fn numbers_without_words(command: &Command) -> (Vec<String>, usize) {
    let (mut found, mut numbers) = (Vec::new(), 0);
    let mut words = Vec::new();
    each_number(command, &mut words, &mut |given, argument| {
        numbers += 1;
        for value in ["many", "-1"] {
            let call = [given, &written(argument, value)].concat();
            let refusal = command.clone().try_get_matches_from(&call);
            let told = refusal.err().map(|e| e.to_string()).unwrap_or_default();
            let name = argument.get_long().unwrap_or(argument.get_id().as_str());
            let is_named = told.to_lowercase().contains(&name.to_lowercase());
            if !is_named || !told.contains(&format!("'{value}'")) || !told.contains(": write ") {
                found.push(format!("{}: {told}", call.join(" ")));
            }
        }
    });
    (found, numbers)
}

/// `argument` with `value`.
fn written(argument: &Arg, value: &str) -> Vec<String> {
    let name = argument.get_long().map(|name| format!("--{name}"));
    name.into_iter().chain([value.to_owned()]).collect()
}

/// Gives `each` number of `command`, and of those below it, with the words that lead there.
fn each_number(command: &Command, words: &mut Vec<String>, each: &mut impl FnMut(&[String], &Arg)) {
    words.push(command.get_name().to_owned());
    for argument in command.get_arguments() {
        if is_number(argument) {
            each(words, argument);
        }
    }
    for next in command.get_subcommands() {
        each_number(next, words, each);
    }
    words.pop();
}

/// Whether a program takes a number, or a time in the form of one.
fn is_number(argument: &Arg) -> bool {
    let kind = argument.get_value_parser().type_id();
    [
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<NonZeroUsize>(),
        TypeId::of::<i64>(),
        TypeId::of::<f32>(),
        TypeId::of::<f64>(),
        TypeId::of::<Duration>(),
    ]
    .iter()
    .any(|number| kind == *number)
}
