//! What the assistant writes, and what the template writes around it.

use qlora_data::Conversation;
use serde_json::json;

use super::{answers, around, called, parts, plain_turns, two_turns};

#[test]
fn separators_and_headers_are_the_templates() {
    for (before, prompt) in [
        ("<|bot|>", "<|bot|>"),
        ("<|bot|>\n", "<|bot|>\n"),
        ("<|bot|>\n\n", "<|bot|>"),
        ("<|bot|>\n\n", "<|bot|>\n"),
        ("<|bot|>: ", "<|bot|>"),
        ("<|bot|> -- ", "<|bot|> --"),
        ("### Answer:\n", "### Answer:"),
        ("Answer: ", "Answer:"),
        // These do not look whether an answer is asked for.
        ("<|im_start|>assistant\n", ""),
        ("<|start|>assistant<|end_header|>\n\n", ""),
        ("ASSISTANT: ", ""),
        (" ", ""),
        ("", ""),
        // The prompt is another than the header.
        ("<|bot|>\n", "<|other|>\n"),
        ("Bot says: ", "<|other|>"),
        ("<|im_start|>assistant\n", "<|im_start|>"),
    ] {
        for after in ["</s>", "</s>\n", "<|end|>\n"] {
            let source = around(before, after, prompt);
            // What the prompt does not give, the model writes.
            let own = before
                .strip_prefix(prompt)
                .filter(|_| !prompt.is_empty())
                .unwrap_or_default();
            let wanted = answers(after.trim_end()).map(|answer| format!("{own}{answer}"));
            assert_eq!(
                parts(&source, &two_turns()).expect(&source),
                wanted,
                "{source}"
            );
        }
    }
}

#[test]
fn what_follows_the_end_of_a_turn_is_not_trained_on() {
    for behind in [
        "",
        "\n",
        "\n### User\n",
        "<s>",
        "{{ messages[loop.index0 - 1].content }}",
        "\nYou asked: {{ messages[loop.index0 - 1].content | upper }}\n",
        "{{ messages[loop.index0 - 1].content }}</s>",
        "{% if not loop.last %}<tool>{{ messages[loop.index].content }}</tool>{% endif %}",
        "{{ messages[0].content }}<|end|>",
        "{{ m.role }}",
    ] {
        let source = around("<|bot|>", &format!("</s>{behind}"), "<|bot|>");
        assert_eq!(
            parts(&source, &two_turns()).expect(&source),
            answers("</s>"),
            "{source}"
        );
    }
}

#[test]
fn a_question_before_its_answer_in_one_span_is_not_trained_on() {
    for (before, prompt) in [
        (
            "<s>[INST] {{ messages[loop.index0 - 1].content }} [/INST] ",
            "",
        ),
        ("Q: {{ messages[loop.index0 - 1].content | trim }}\nA: ", ""),
        (
            "<|q|>{{ messages[loop.index0 - 1].content }}<|a|>\n",
            "<|a|>\n",
        ),
    ] {
        let source = format!(
            "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{before}{{{{ m.content }}}}</s>{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
        );
        assert_eq!(
            parts(&source, &two_turns()).expect(&source),
            answers("</s>"),
            "{source}"
        );
    }
}

#[test]
fn results_and_calls_keep_to_their_own_turns() {
    let call = "<call>{{ m.tool_calls[0].function | tojson }}</call>";
    let wanted = "<call>{\"name\": \"open_gate\", \"arguments\": {\"gate\": \"north\", \"n\": 3}}</call></s>";
    for (before, prompt) in [
        ("<|bot|>\n", "<|bot|>\n"),
        ("<|bot|>\n\n", "<|bot|>"),
        ("<|bot|>\n", ""),
        ("", ""),
    ] {
        for behind in [
            "",
            "\n",
            "{% if loop.index0 == 1 %}\n<result>{{ messages[2].content }}</result>{% endif %}\n",
        ] {
            let source = format!(
                "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{before}{{% if m.tool_calls %}}{call}{{% endif %}}{{{{ m.content or '' }}}}</s>{behind}{{% elif m.role == 'user' %}}<|user|>{{{{ m.content }}}}<|end|>\n{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
            );
            let own = before
                .strip_prefix(prompt)
                .filter(|_| !prompt.is_empty())
                .unwrap_or_default();
            let wanted = [wanted, "Done.</s>"].map(|answer| format!("{own}{answer}"));
            assert_eq!(
                parts(&source, &called()).expect(&source),
                wanted,
                "{source}"
            );
        }
    }
}

#[test]
fn reasoning_that_the_prompt_does_not_give_is_trained_on() {
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}PROMPT";
    let row = |reasoning: &str| {
        let row = json!({"messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "4", "reasoning_content": reasoning},
        ]});
        Conversation::from_value(row).expect("a conversation")
    };
    for (prompt, reasoned, bare) in [
        (
            "",
            "<think>\nTwo and two.\n</think>\n\n4<|im_end|>",
            "<think>\n\n</think>\n\n4<|im_end|>",
        ),
        (
            "<think>\n",
            "Two and two.\n</think>\n\n4<|im_end|>",
            "\n</think>\n\n4<|im_end|>",
        ),
        (
            "<think>\n\n</think>\n\n",
            "<think>\nTwo and two.\n</think>\n\n4<|im_end|>",
            "4<|im_end|>",
        ),
    ] {
        let prompt =
            format!("{{% if add_generation_prompt %}}<|im_start|>assistant\n{prompt}{{% endif %}}");
        let source = source.replace("PROMPT", &prompt);
        assert_eq!(
            parts(&source, &row("Two and two.")).expect(&source),
            [reasoned],
            "{source}"
        );
        assert_eq!(parts(&source, &row("")).expect(&source), [bare], "{source}");
    }
    let source = source.replace("PROMPT", "");
    let wanted = "<think>\nTwo and two.\n</think>\n\n4<|im_end|>";
    assert_eq!(
        parts(&source, &row("Two and two.")).expect(&source),
        [wanted],
        "{source}"
    );
}

#[test]
fn what_stands_at_the_end_of_every_text_is_not_trained_on() {
    let other = "{{ m.role }}: {{ m.content }}<|end|>\n";
    for (end, kept, prompt) in [
        ("</s>", "</s>", "<|bot|>"),
        ("<|eot|>", "<|eot|>", "<|bot|>"),
        ("<|eot|>\n", "<|eot|>", "<|bot|>"),
        ("\n", "", "<|bot|>"),
        ("", "", "\nBot: "),
    ] {
        for footer in ["\n### Notes: be nice", "<|footer|>", "\n(end)\n"] {
            let said = format!("{{{{ m.content }}}}{end}");
            let answer = format!(
                "{{% if m.role == 'assistant' %}}{prompt}{said}{{% else %}}{other}{{% endif %}}"
            );
            let asked = format!("{{% if add_generation_prompt %}}{prompt}{{% endif %}}");
            let last = "{% if add_generation_prompt or messages[-1].role == 'assistant' %}FOOTER{% endif %}";
            for ending in [
                format!("{asked}FOOTER"),
                format!("FOOTER{asked}"),
                format!("{asked}{last}"),
            ] {
                let source = format!("{{% for m in messages %}}{answer}{{% endfor %}}{ending}")
                    .replace("FOOTER", footer);
                let found = parts(&source, &plain_turns()).expect(&source);
                assert_eq!(
                    found,
                    ["By the river.", "Yes, <b>there</b>."].map(|said| format!("{said}{kept}")),
                    "{source}"
                );
            }
        }
    }
}

#[test]
fn texts_that_templates_look_at_are_traced_all_the_same() {
    // Marks would change what these conditions see.
    for seen in [
        "m.content.startswith('By')",
        "m.content == 'By the river.'",
        "m.content | length == 13",
        "m.content[:2] == 'By'",
    ] {
        let source = around(
            &format!("<|bot|>{{{{ '' if {seen} else '' }}}}"),
            "</s>{{ messages[loop.index0 - 1].content }}",
            "<|bot|>",
        );
        assert_eq!(
            parts(&source, &two_turns()).expect(&source),
            answers("</s>"),
            "{source}"
        );
    }
}

/// As ChatML where only the last turn lacks its end.
const OPEN_AT_THE_END: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}{{ m.content or '' }}{% if m.role != 'assistant' or not loop.last %}END\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn an_end_token_that_only_the_last_turn_lacks_is_trained_on_in_the_others() {
    for end in ["<|im_end|>", "</s>", "<|end|>"] {
        let source = OPEN_AT_THE_END.replace("END", end);
        let found = parts(&source, &called()).expect("a rendering");
        assert!(
            found[0].starts_with("<call>") && found[0].ends_with(&format!("</call>{end}")),
            "{found:?}"
        );
        assert_eq!(found[1], "Done.");
        let plain = parts(&source, &plain_turns()).expect("a rendering");
        assert_eq!(
            plain,
            [
                format!("By the river.{end}"),
                "Yes, <b>there</b>.".to_owned()
            ]
        );
    }
}
