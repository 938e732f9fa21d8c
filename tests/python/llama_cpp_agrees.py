"""llama.cpp says the same of a prompt as qlora-worker does.

Usage: llama_cpp_agrees.py LOGITS MODEL.gguf [ADAPTER.gguf]
       llama_cpp_agrees.py TOKENIZER.json MODEL.gguf

LOGITS is the safetensors file that `qlora-worker logits` writes. Its ids, but for those at the end, are the prompt; the
log-probabilities of every token after it are compared, and the largest difference among the likeliest is printed.
With a tokenizer, a text and its ids are given to llama.cpp, which must cut the text into these ids to answer alike.
"""

import json
import math
import struct
import sys

import xllamacpp
from tokenizers import Tokenizer

PROMPT = 40
TOLERANCE = 1e-4
TEXT = 'Weather in Zürich for 12345 days? {"name": "weather", "arguments": {"city": "東京"}}\n\n\t It\'s <b> 3.14  fine'


def tensors(path):
    """The two tensors of the file: ids (I64) and logits (F32)."""
    data = open(path, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    found = {}
    for name, kind in (("ids", "q"), ("logits", "f")):
        start, end = header[name]["data_offsets"]
        raw = data[8 + size + start : 8 + size + end]
        found[name] = (struct.unpack(f"<{len(raw) // struct.calcsize(kind)}{kind}", raw), header[name]["shape"])
    return found


def log_probabilities(logits):
    top = max(logits)
    total = math.log(sum(math.exp(x - top) for x in logits))
    return [x - top - total for x in logits]


def of_llama_cpp(model, adapter, prompt, vocabulary):
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 256
    params.n_gpu_layers = 0
    params.warmup = False
    params.verbosity = -1
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cpuparams.n_threads = 2
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    server = xllamacpp.Server(params)
    request = {"prompt": prompt, "n_predict": 1, "n_probs": vocabulary, "temperature": 0.0, "cache_prompt": False}
    answer = server.handle_completions(request)
    top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {entry["id"]: entry["logprob"] for entry in top}


def of_us(path):
    """The prompt, and the log-probabilities of what may follow it."""
    found = tensors(path)
    ids, _ = found["ids"]
    values, (_, vocabulary) = found["logits"]
    return list(ids[:PROMPT]), log_probabilities(values[(PROMPT - 1) * vocabulary : PROMPT * vocabulary])


given, model = sys.argv[1:3]
if given.endswith(".json"):
    tokenizer = Tokenizer.from_file(given)
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    wanted = of_llama_cpp(model, None, ids, tokenizer.get_vocab_size())
    theirs = of_llama_cpp(model, None, TEXT, len(wanted))
else:
    prompt, wanted = of_us(given)
    theirs = of_llama_cpp(model, sys.argv[3] if len(sys.argv) > 3 else None, prompt, len(wanted))
likeliest = sorted(theirs, key=theirs.get, reverse=True)[:100]
difference = max(abs(theirs[i] - wanted[i]) for i in likeliest)
print(f"largest difference of log-probabilities: {difference:.1e} over {len(likeliest)} tokens")
sys.exit(0 if len(likeliest) == 100 and difference < TOLERANCE else 1)
