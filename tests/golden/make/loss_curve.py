"""A QLoRA run by PEFT and bitsandbytes with all that another trainer needs to retrace it.

    python loss_curve.py MODEL OUT [--device cpu] [--dtype fp32] [--shape tiny] ...

A reference in Python for remaking loss_curve/, or for recording a longer run on a GPU: neither the product nor its tests
run it. MODEL is a Hugging Face folder; where there is none, a Llama with seeded weights is written there, of the same
bits on every machine. OUT gets adapter_init/, batches.safetensors, losses.json (the loss before each update, the norm
before clipping) and run.json (every setting). The tokens are those of a noisy Markov chain, so that the loss falls.
"""

import argparse
import hashlib
import json
import os
import pathlib
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import bitsandbytes
import numpy
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPES = {
    "small": dict(
        hidden_size=1024,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=4,
        intermediate_size=2816,
        vocab_size=4096,
    ),
    "tiny": dict(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=256,
        vocab_size=256,
    ),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make_model(folder, shape, seed):
    """Weights that are uniform with a standard deviation of 0.02, stored in bf16."""
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=1,
        eos_token_id=2,
        use_cache=False,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    random = numpy.random.Generator(numpy.random.PCG64(seed + 1))
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() > 1:
                unit = random.random(tuple(weight.shape), dtype=numpy.float32) * 2 - 1
                weight.copy_(torch.from_numpy(unit * numpy.float32(0.02 * 3**0.5)))
    model.bfloat16().save_pretrained(folder)


def tokens(a, vocabulary):
    """[steps, batch, seq]: nine times in ten the token that follows the last one, otherwise any."""
    chance = torch.Generator().manual_seed(a.seed + 2)
    v = min(vocabulary, 512)
    follows = torch.randperm(v, generator=chance)
    ids = torch.empty(a.steps, a.batch, a.seq, dtype=torch.int64)
    ids[:, :, 0] = torch.randint(0, v, (a.steps, a.batch), generator=chance)
    is_any = torch.rand(ids.shape, generator=chance) < 0.1
    other = torch.randint(0, v, ids.shape, generator=chance)
    for t in range(1, a.seq):
        ids[:, :, t] = torch.where(is_any[:, :, t], other[:, :, t], follows[ids[:, :, t - 1]])
    return ids


def adapted(a, dtype):
    """The model in NF4 with adapters in fp32, which a run in bf16 uses under autocast."""
    model = AutoModelForCausalLM.from_pretrained(
        a.model,
        dtype=dtype,
        device_map="cpu" if a.device == "cpu" else {"": 0},
        attn_implementation="sdpa",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    )
    model.config.use_cache = False
    model.requires_grad_(False)
    torch.manual_seed(a.seed + 3)
    lora = LoraConfig(
        r=a.rank,
        lora_alpha=a.alpha,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=TARGETS,
    )
    model = get_peft_model(model, lora)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model


def train(a, model, ids, adam):
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, **adam)
    model.train()
    losses, norms = [], []
    for step in range(a.steps):
        x = ids[step].to(a.device)
        with torch.autocast(a.device.split(":")[0], torch.bfloat16, enabled=a.dtype == "bf16"):
            loss = model(input_ids=x, labels=x).loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(weights, a.clip)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses, norms


def main():
    a = arguments()
    transformers.utils.logging.disable_progress_bar()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1)
    is_made = not (a.model / "config.json").exists()
    if is_made:
        make_model(a.model, a.shape, a.seed)
    a.out.mkdir(parents=True, exist_ok=True)
    ids = tokens(a, AutoConfig.from_pretrained(a.model).vocab_size)
    save_file({"input_ids": ids}, a.out / "batches.safetensors")
    model = adapted(a, torch.bfloat16 if a.dtype == "bf16" else torch.float32)
    model.save_pretrained(a.out / "adapter_init")
    (a.out / "adapter_init" / "README.md").unlink(missing_ok=True)
    adam = dict(lr=a.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    start = time.perf_counter()
    losses, norms = train(a, model, ids, adam)
    run = {
        "what": "loss-curve",
        "model": a.model.name,
        "model_made_here": is_made,
        "model_sha256": hashlib.sha256((a.model / "model.safetensors").read_bytes()).hexdigest(),
        "dtype": a.dtype,
        "device": a.device,
        "gpu": torch.cuda.get_device_name(0) if a.device != "cpu" else None,
        "steps": a.steps,
        "batch": a.batch,
        "seq": a.seq,
        "rank": a.rank,
        "alpha": a.alpha,
        "dropout": 0.0,
        "targets": TARGETS,
        "clip_norm": a.clip,
        "optimizer": {"name": "AdamW", "schedule": "constant", **adam},
        "quantization": "NF4, block 64, double quantization (absmax blocks of 256), every linear layer but lm_head",
        "loss": "mean cross entropy of token t+1 given tokens <= t, over batch * (seq - 1) positions, logits in fp32",
        "adapter_dtype": "fp32",
        "autocast": a.dtype == "bf16",
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "bitsandbytes": bitsandbytes.__version__,
        "seconds": round(time.perf_counter() - start, 1),
        "loss_first": losses[0],
        "loss_last10_mean": sum(losses[-10:]) / len(losses[-10:]),
        "status": "ok",
    }
    (a.out / "losses.json").write_text(json.dumps({"loss": losses, "grad_norm": norms}, indent=0))
    (a.out / "run.json").write_text(json.dumps(run, indent=1))


if __name__ == "__main__":
    main()
