#!/usr/bin/env python3
"""Renders small templates with Jinja2 as transformers sets it up, for tests/expressions.rs to compare with.

usage: expressions.py ROW OUT < TEMPLATES
TEMPLATES is a JSON list of templates. Writes a JSON list of texts to OUT, null where Jinja2 refuses.
"""
import json
import pathlib
import sys

from transformers.utils.chat_template_utils import render_jinja_template


def render(source, row):
    """One text; None where the template raises."""
    try:
        texts, _ = render_jinja_template(
            conversations=[row["messages"]], tools=row["tools"], chat_template=source, bos_token="<s>", eos_token="</s>")
    except Exception:
        return None
    return texts[0]


def main():
    row = json.loads(pathlib.Path(sys.argv[1]).read_text())
    texts = [render(source, row) for source in json.load(sys.stdin)]
    pathlib.Path(sys.argv[2]).write_text(json.dumps(texts))


main()
