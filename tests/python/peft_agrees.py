#!/usr/bin/env python3
"""Loads an adapter that qlora trained into PEFT, over the same base, and compares logits.

usage: peft_agrees.py BASE ADAPTER LOGITS
BASE is a Hugging Face folder or a GGUF file; LOGITS a safetensors file with `ids` and `logits`, as
`qlora-worker logits` writes it. Needs torch, transformers, peft (and gguf for a GGUF base) from PyPI.
"""
import os, sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main() -> None:
    base, adapter, logits = sys.argv[1:4]
    if base.endswith(".gguf"):
        folder, name = os.path.split(base)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wanted = load_file(logits)
    ids = wanted["ids"].long().unsqueeze(0)
    with torch.no_grad():
        before = model(ids).logits[0]
        after = PeftModel.from_pretrained(model, adapter)(ids).logits[0]
    difference = (after - wanted["logits"]).abs().max().item()
    change = (after - before).abs().max().item()
    print(f"largest difference to PEFT {difference:.2e}; the adapter changes logits by up to {change:.2e}")
    sys.exit(0 if difference < 2e-3 * max(1.0, after.abs().max().item()) and change > 10 * difference else 1)


main()
