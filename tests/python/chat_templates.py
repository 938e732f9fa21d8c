#!/usr/bin/env python3
"""Renders conversations through public chat templates with transformers, to hold ours against.

usage: chat_templates.py CONVERSATIONS OUT TEMPLATE...
Writes a JSON list to OUT: for each template and conversation the text with and without the generation prompt, or null
where the template refuses.
"""
import json, pathlib, sys

from transformers.utils.chat_template_utils import render_jinja_template

BOS, EOS = "<s>", "</s>"


def render(template, conversation, prompt):
    """One text; None where the template raises."""
    try:
        texts, _ = render_jinja_template(
            conversations=[conversation["messages"]], tools=conversation.get("tools") or None, chat_template=template,
            add_generation_prompt=prompt, bos_token=BOS, eos_token=EOS, date_string="26 Jul 2024")
    except Exception:
        return None
    return texts[0]


def main() -> None:
    given = json.loads(pathlib.Path(sys.argv[1]).read_text())
    rows = []
    for path in map(pathlib.Path, sys.argv[3:]):
        source = path.read_text()
        for conversation in given if isinstance(given, list) else given["conversations"]:
            texts = [render(source, conversation, prompt) for prompt in (False, True)]
            rows.append({"template": path.name, "source": source, "conversation": conversation, "text": texts[0], "prompted": texts[1]})
    pathlib.Path(sys.argv[2]).write_text(json.dumps(rows, ensure_ascii=False))
    print(len(rows), sum(row["text"] is not None for row in rows))


main()
