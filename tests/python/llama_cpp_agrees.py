"""llama.cpp says the same of a prompt as qlora-worker does.

Usage: llama_cpp_agrees.py [--tolerance=DIFFERENCE] LOGITS MODEL.gguf [ADAPTER.gguf]
       llama_cpp_agrees.py TOKENIZER.json MODEL.gguf

LOGITS is the safetensors file that `qlora-worker logits` writes. Its ids, but for those at the end, are the prompt; the
log-probabilities of every token after it are compared, and the largest difference among the likeliest is printed. Where
the likeliest token ends the answer, or is a part of a letter, llama.cpp tells no probabilities; then the prompt is shorter.
With a tokenizer, a text and its ids are given to llama.cpp, which must cut the text into these ids to answer alike.
"""

import json
import math
import struct
import sys

import xllamacpp
from tokenizers import Tokenizer

PROMPT = 40
SHORTEST = 20
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


def of_llama_cpp(model, adapter, prompts, vocabulary):
    """The first of the prompts that llama.cpp tells probabilities after, and these."""
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
    for prompt in prompts:
        request = {"prompt": prompt, "n_predict": 1, "n_probs": vocabulary, "temperature": 0.0, "cache_prompt": False}
        told = server.handle_completions(request)["choices"][0]["logprobs"]
        if told:
            return prompt, {entry["id"]: entry["logprob"] for entry in told["content"][0]["top_logprobs"]}
    sys.exit("llama.cpp tells no probabilities after any prompt")


names = [name for name in sys.argv[1:] if name.startswith("--tolerance=")]
tolerance = float(names[0].partition("=")[2]) if names else 1e-4
given, model, *adapters = [name for name in sys.argv[1:] if name not in names]
if given.endswith(".json"):
    tokenizer = Tokenizer.from_file(given)
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    _, wanted = of_llama_cpp(model, None, [ids], tokenizer.get_vocab_size())
    _, theirs = of_llama_cpp(model, None, [TEXT], len(wanted))
else:
    found = tensors(given)
    ids, (values, (_, vocabulary)) = list(found["ids"][0]), found["logits"]
    prompts = [ids[:length] for length in range(PROMPT, SHORTEST, -1)]
    prompt, theirs = of_llama_cpp(model, adapters[0] if adapters else None, prompts, vocabulary)
    wanted = log_probabilities(values[(len(prompt) - 1) * vocabulary : len(prompt) * vocabulary])
likeliest = sorted(theirs, key=theirs.get, reverse=True)[:100]
difference = max(abs(theirs[i] - wanted[i]) for i in likeliest)
print(f"largest difference of log-probabilities: {difference:.1e} over {len(likeliest)} tokens")
sys.exit(0 if len(likeliest) == 100 and difference < tolerance else 1)
