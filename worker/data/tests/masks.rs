//! What is trained on is the assistant's own text and the end of its turn, whatever a template writes around them.

use qlora_data::{ChatTemplate, Conversation, SpecialTokens, TemplateError};
use serde_json::json;

const END: &str = "</s>";

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, SpecialTokens { bos: "<s>".into(), eos: END.into() }).expect("a template that compiles")
}

fn two_turns() -> Conversation {
    let row = json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is the mill?"},
        {"role": "assistant", "content": "By the river."},
        {"role": "user", "content": "By the river."},
        {"role": "assistant", "content": "  Yes, <b>there</b>.\n"},
    ]});
    Conversation::from_value(row).expect("a conversation")
}

fn called() -> Conversation {
    let row = json!({"messages": [
        {"role": "user", "content": "Open the gate."},
        {"role": "assistant", "tool_calls": [{"name": "open_gate", "arguments": {"gate": "north", "n": 3}}]},
        {"role": "tool", "content": "It is open."},
        {"role": "assistant", "content": "Done."},
    ], "tools": [{"name": "open_gate", "description": "Opens a gate."}]});
    Conversation::from_value(row).expect("a conversation")
}

fn parts(source: &str, conversation: &Conversation) -> Result<Vec<String>, TemplateError> {
    let rendered = template(source).render(conversation)?;
    assert!(rendered.lost.is_empty(), "{source}: {:?}", rendered.lost);
    Ok(rendered.assistant.iter().map(|part| rendered.text[part.clone()].to_owned()).collect())
}

/// A template that writes `before` and `after` around each answer, and `prompt` for the next.
fn around(before: &str, after: &str, prompt: &str) -> String {
    format!(
        "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{before}{{{{ m.content }}}}{after}{{% else %}}[{{{{ m.role }}}}] {{{{ m.content }}}}<|end|>\n{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    )
}

/// What the two answers are with `end` behind them.
fn answers(end: &str) -> Vec<String> {
    ["By the river.", "  Yes, <b>there</b>.\n"].map(|said| format!("{said}{end}")).to_vec()
}

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
            assert_eq!(parts(&source, &two_turns()).expect(&source), answers(after.trim_end()), "{source}");
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
        assert_eq!(parts(&source, &two_turns()).expect(&source), answers("</s>"), "{source}");
    }
}

#[test]
fn a_question_before_its_answer_in_one_span_is_not_trained_on() {
    for (before, prompt) in [
        ("<s>[INST] {{ messages[loop.index0 - 1].content }} [/INST] ", ""),
        ("Q: {{ messages[loop.index0 - 1].content | trim }}\nA: ", ""),
        ("<|q|>{{ messages[loop.index0 - 1].content }}<|a|>\n", "<|a|>"),
    ] {
        let source = format!(
            "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{before}{{{{ m.content }}}}</s>{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
        );
        assert_eq!(parts(&source, &two_turns()).expect(&source), answers("</s>"), "{source}");
    }
}

#[test]
fn a_template_that_mixes_texts_is_refused() {
    for (after, conversation) in [
        // Another's text stands before the end of the turn.
        (" ({{ messages[loop.index0 - 1].content }})</s>", two_turns()),
        ("{{ messages[0].content }}\n", two_turns()),
        ("\nYou asked: {{ messages[loop.index0 - 1].content | replace('e', 'E') }}\n", two_turns()),
        ("{{ messages[loop.index0 - 1].content }}{{ m.content }}</s>", two_turns()),
        ("{{ messages[0].content | tojson }}", called()),
        ("{{ tools | tojson }}</s>", called()),
    ] {
        let source = around("<|bot|>{{ m.tool_calls | tojson if m.tool_calls }}", after, "<|bot|>");
        let fault = template(&source).render(&conversation).expect_err(&source);
        assert!(matches!(fault, TemplateError::Foreign { .. }), "{source}: {fault}");
        assert!(fault.to_string().contains("chatml-tools"), "{fault}");
    }
}

#[test]
fn results_and_calls_keep_to_their_own_turns() {
    let call = "<call>{{ m.tool_calls[0].function | tojson }}</call>";
    let wanted = "<call>{\"name\": \"open_gate\", \"arguments\": {\"gate\": \"north\", \"n\": 3}}</call></s>";
    for (before, prompt) in [("<|bot|>\n", "<|bot|>\n"), ("<|bot|>\n\n", "<|bot|>"), ("<|bot|>\n", ""), ("", "")] {
        for behind in ["", "\n", "{% if loop.index0 == 1 %}\n<result>{{ messages[2].content }}</result>{% endif %}\n"] {
            let source = format!(
                "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{before}{{% if m.tool_calls %}}{call}{{% endif %}}{{{{ m.content or '' }}}}</s>{behind}{{% elif m.role == 'user' %}}<|user|>{{{{ m.content }}}}<|end|>\n{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
            );
            assert_eq!(parts(&source, &called()).expect(&source), [wanted, "Done.</s>"], "{source}");
        }
    }
}

#[test]
fn blocks_hold_the_assistants_text_alone() {
    let marked = |inner: &str| {
        format!(
            "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{{% generation %}}{inner}{{% endgeneration %}}{{% else %}}{{{{ m.content }}}}{{% endif %}}{{% endfor %}}"
        )
    };
    assert_eq!(parts(&marked("{{ m.content }}</s>"), &two_turns()).expect("parts"), answers("</s>"));
    for source in [
        marked("{{ m.content }}</s>{{ messages[1].content }}"),
        marked("{{ messages[0].content }}{{ m.content }}</s>"),
        "{% generation %}{% for m in messages %}{{ m.content }}</s>{% endfor %}{% endgeneration %}".into(),
    ] {
        let fault = template(&source).render(&two_turns()).expect_err(&source);
        assert!(matches!(fault, TemplateError::Foreign { .. }), "{source}: {fault}");
    }
    // Of two answers, one stands outside of the blocks.
    let source = "{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{% endfor %}";
    let rendered = template(source).render(&two_turns()).expect("text");
    assert_eq!(rendered.lost.iter().map(|lost| lost.index).collect::<Vec<_>>(), [2]);
}

#[test]
fn reasoning_that_the_model_writes_is_trained_on() {
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\nPROMPT{% endif %}";
    let row = json!({"messages": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "Two and two."},
    ]});
    let conversation = Conversation::from_value(row).expect("a conversation");
    for prompt in ["", "<think>\n"] {
        let source = source.replace("PROMPT", prompt);
        let wanted = "<think>\nTwo and two.\n</think>\n\n4<|im_end|>";
        assert_eq!(parts(&source, &conversation).expect(&source), [wanted], "{source}");
    }
    let source = source.replace("{% if add_generation_prompt %}<|im_start|>assistant\nPROMPT{% endif %}", "");
    let wanted = "<think>\nTwo and two.\n</think>\n\n4<|im_end|>";
    assert_eq!(parts(&source, &conversation).expect(&source), [wanted], "{source}");
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
        assert_eq!(parts(&source, &two_turns()).expect(&source), answers("</s>"), "{source}");
    }
}
