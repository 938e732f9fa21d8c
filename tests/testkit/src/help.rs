//! What the help of a program leaves unsaid.

use clap::Command;

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
