#!/usr/bin/env python3
"""Renders conversations through chat templates with transformers, for tests/templates.rs to compare with.

usage: render.py CONVERSATIONS OUT TEMPLATE...
Writes a JSON object to OUT: for each template, by name, its source and for each conversation, by name, the text without and
with the generation prompt, or null where the template refuses. Today is 2024-07-26.
"""
import datetime
import json
import pathlib
import sys

from transformers.utils import chat_template_utils


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, tzinfo=tz)


chat_template_utils.datetime = FixedDate


def render(source, row, prompt):
    """One text; None where the template raises."""
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[row["messages"]], tools=row.get("tools"), chat_template=source, add_generation_prompt=prompt,
            bos_token="<s>", eos_token="</s>")
    except Exception:
        return None
    return texts[0]


def main():
    rows = json.loads(pathlib.Path(sys.argv[1]).read_text())
    out = {}
    for path in map(pathlib.Path, sys.argv[3:]):
        source = path.read_text()
        texts = {name: [render(source, row, prompt) for prompt in (False, True)] for name, row in rows.items()}
        out[path.name] = {"source": source, "texts": texts}
    pathlib.Path(sys.argv[2]).write_text(json.dumps(out))


main()
