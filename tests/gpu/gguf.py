"""Writes a GGUF file of random blocks in the shape of Mistral 7B: q4_K, with q6_K where llama.cpp's Q4_K_M has it for all
blocks, the output layer. For a bench of GGUF bases on a machine without a network.

    gguf.py FILE [--tiny]

Blocks repeat: what is measured is their size and kind, no model.
"""

import random
import struct
import sys

ALIGNMENT = 32
F32, Q4_K, Q6_K = 0, 12, 14
# Elements of a block.
BLOCK = 256
UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9
INT32 = 5
SCALE = 2.0**-12


def half(x):
    return struct.pack("<e", x)


def block(kind):
    """One block of random codes around zero."""
    some = random.randbytes
    if kind == Q4_K:
        # Scale and minimum; twelve bytes of 6-bit scales and minima, alike; four bits a number.
        return half(SCALE) + half(8 * SCALE) + bytes([0x21] * 12) + some(128)
    return some(128) + some(64) + bytes([3] * 16) + half(SCALE)


class Pattern:
    """Bytes of many blocks, made once."""

    def __init__(self, kind):
        self.size = len(block(kind))
        self.bytes = b"".join(block(kind) for _ in range(4096))

    def write(self, file, blocks):
        left = blocks * self.size
        while left > 0:
            left -= file.write(self.bytes[:left])


def visible(byte):
    """The character that stands for a byte in GPT-2's vocabulary."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in printed else chr(256 + sum(b not in printed for b in range(byte)))


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(x):
    if isinstance(x, str):
        return struct.pack("<I", STRING) + string(x)
    if isinstance(x, float):
        return struct.pack("<If", FLOAT32, x)
    if isinstance(x, list):
        kind, pack = (STRING, string) if isinstance(x[0], str) else (INT32, lambda n: struct.pack("<i", n))
        return struct.pack("<IIQ", ARRAY, kind, len(x)) + b"".join(map(pack, x))
    return struct.pack("<II", UINT32, x)


def main():
    path, tiny = sys.argv[1], "--tiny" in sys.argv
    random.seed(7)
    d, f, layers, heads, kv, vocabulary = (256, 512, 2, 4, 2, 512) if tiny else (4096, 14336, 32, 32, 8, 32768)
    head = d // heads
    words = list(map(visible, range(256))) + ["ab", "<s>", "</s>"]
    words += [f"<unused{n}>" for n in range(vocabulary - len(words))]
    metadata = {
        "general.architecture": "llama", "general.name": "random", "llama.block_count": layers, "llama.context_length": 32768,
        "llama.embedding_length": d, "llama.feed_forward_length": f, "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv, "llama.rope.dimension_count": head, "llama.rope.freq_base": 1e6,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.vocab_size": vocabulary, "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.tokens": words, "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.token_type": [1] * 257 + [3] * (vocabulary - 257), "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 258,
    }
    tensors = [("token_embd.weight", (d, vocabulary), Q4_K), ("output.weight", (d, vocabulary), Q6_K), ("output_norm.weight", (d,), F32)]
    for i in range(layers):
        shapes = {"attn_q": (d, d), "attn_k": (d, kv * head), "attn_v": (d, kv * head), "attn_output": (d, d),
                  "ffn_gate": (d, f), "ffn_up": (d, f), "ffn_down": (f, d)}
        tensors += [(f"blk.{i}.{name}.weight", shape, Q4_K) for name, shape in shapes.items()]
        tensors += [(f"blk.{i}.{name}.weight", (d,), F32) for name in ("attn_norm", "ffn_norm")]
    patterns = {kind: Pattern(kind) for kind in (Q4_K, Q6_K)}

    def length(shape, kind):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        return 4 * count if kind == F32 else count // BLOCK * patterns[kind].size

    with open(path, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, x in metadata.items():
            out.write(string(key) + value(x))
        offset = 0
        for name, shape, kind in tensors:
            out.write(string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
            offset += -(-length(shape, kind) // ALIGNMENT) * ALIGNMENT
        for _, shape, kind in tensors:
            out.write(b"\0" * (-out.tell() % ALIGNMENT))
            if kind == F32:
                out.write(struct.pack("<f", 1.0) * shape[0])
            else:
                patterns[kind].write(out, length(shape, kind) // patterns[kind].size)


main()
