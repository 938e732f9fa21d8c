"""families/: a tiny random model of each architecture, its logits, and eight steps of PEFT over it in NF4.

What is special about each is in the README of that folder.
"""

import json

import torch
import transformers as T
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from common import gen, gradients, padded, save_adapter, save_json, save_tensors, scrub
from models import load_nf4, pre_v5, randomize

STEPS, ACCUM, WARMUP, LR, CLIP = 8, 2, 2, 1e-3, 1.0
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
BASE = dict(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-6,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    attn_implementation="eager",
    dtype="float32",
)
# Class of the configuration, what it has beside BASE, and the seed of the weights.
FAMILIES = {
    "llama_tied": (
        T.LlamaConfig,
        dict(
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        500,
    ),
    "llama_biases": (
        T.LlamaConfig,
        dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=False, rope_parameters=ROPE),
        900,
    ),
    "mistral_head_dim": (
        T.MistralConfig,
        dict(head_dim=48, tie_word_embeddings=False, sliding_window=None, rope_parameters=ROPE),
        501,
    ),
    "qwen2": (
        T.Qwen2Config,
        dict(
            tie_word_embeddings=True,
            use_sliding_window=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        502,
    ),
    "qwen2_yarn": (
        T.Qwen2Config,
        dict(
            tie_word_embeddings=False,
            use_sliding_window=False,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1000000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        503,
    ),
    "qwen3": (
        T.Qwen3Config,
        dict(head_dim=32, tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
        504,
    ),
    "phi3": (
        T.Phi3Config,
        dict(
            tie_word_embeddings=False, sliding_window=None, original_max_position_embeddings=512, rope_parameters=ROPE
        ),
        505,
    ),
    "phi3_partial": (
        T.Phi3Config,
        dict(
            tie_word_embeddings=True,
            sliding_window=None,
            original_max_position_embeddings=512,
            rope_parameters={**ROPE, "partial_rotary_factor": 0.75},
        ),
        506,
    ),
    "gemma2": (
        T.Gemma2Config,
        dict(
            num_hidden_layers=4,
            head_dim=32,
            query_pre_attn_scalar=24,
            sliding_window=8,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            hidden_activation="gelu_pytorch_tanh",
            tie_word_embeddings=True,
            rope_parameters=ROPE,
        ),
        507,
    ),
    "gemma3": (
        T.Gemma3TextConfig,
        dict(
            num_hidden_layers=4,
            head_dim=32,
            query_pre_attn_scalar=24,
            sliding_window=8,
            hidden_activation="gelu_pytorch_tanh",
            tie_word_embeddings=True,
            layer_types=["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
            },
        ),
        508,
    ),
    "smollm3": (
        T.SmolLM3Config,
        dict(
            num_hidden_layers=4,
            tie_word_embeddings=True,
            no_rope_layers=[1, 1, 1, 0],
            no_rope_layer_interval=4,
            use_sliding_window=False,
            rope_parameters={"rope_type": "default", "rope_theta": 2000000.0},
        ),
        509,
    ),
    "granite": (
        T.GraniteConfig,
        dict(
            tie_word_embeddings=True,
            embedding_multiplier=12.0,
            logits_scaling=8.0,
            residual_multiplier=0.22,
            attention_multiplier=0.0625,
            rope_parameters=ROPE,
        ),
        510,
    ),
}


def batches(seed):
    g = gen(seed)
    ri = lambda a, b: int(torch.randint(a, b, (1,), generator=g))
    out = []
    for i in range(STEPS * ACCUM):
        rows = []
        for _ in range(2):
            n, start = ri(10, 41), ri(3, 200)
            ids = torch.tensor([1] + [3 + (start + 7 * j * (1 + i % 3)) % 250 for j in range(n - 2)] + [2])
            noise = torch.rand(n, generator=g) < 0.1
            ids = torch.where(noise, torch.randint(3, 256, (n,), generator=g), ids)
            lab = ids.clone()
            lab[: ri(1, n - 2)] = -100
            rows.append((ids, lab))
        out.append(padded(rows))
    return out


@torch.no_grad()
def logits(m, ids):
    m.eval()
    return m(input_ids=ids).logits


def make(out):
    d = out / "families"
    data = batches(3100)
    save_tensors(d / "batches.safetensors", {f"{i:02d}.{k}": v.int() for i, b in enumerate(data) for k, v in b.items()})
    ids = torch.randint(3, 256, (1, 40), generator=gen(2100))
    for name, (Config, extra, seed) in FAMILIES.items():
        f = d / name
        cfg = Config(**{**BASE, **extra})
        m = AutoModelForCausalLM.from_config(cfg, attn_implementation="eager").float().eval()
        randomize(m, seed)
        if "gemma" in name:  # its norms are 1 + w
            with torch.no_grad():
                for n, p in m.named_parameters():
                    if "norm" in n:
                        p.sub_(1.0)
        m = m.bfloat16()
        m.save_pretrained(f)
        (f / "generation_config.json").unlink()
        scrub(f)
        save_json(f / "config.pre_v5.json", pre_v5(json.loads((f / "config.json").read_text())))
        m = AutoModelForCausalLM.from_pretrained(
            f, dtype=torch.float32, attn_implementation="eager"
        )  # bfloat16() rounded the frequencies of `m` too
        full = logits(m, ids)
        base, quantised = load_nf4(f)
        save_tensors(
            f / "logits.safetensors", {"input_ids": ids.int(), "logits": full, "nf4_logits": logits(base, ids)}
        )
        torch.manual_seed(4100)
        pm = get_peft_model(
            base,
            LoraConfig(
                r=4, lora_alpha=8, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules="all-linear"
            ),
        )
        save_tensors(f / "run" / "initial_adapter.safetensors", get_peft_model_state_dict(pm))
        params = [p for p in pm.parameters() if p.requires_grad]
        opt = torch.optim.AdamW(params, lr=LR, weight_decay=0.0)
        sched = get_cosine_schedule_with_warmup(opt, WARMUP, STEPS)
        pm.train()
        rec, first = [], None
        for s in range(STEPS):
            mb = data[s * ACCUM : (s + 1) * ACCUM]
            items = sum((b["labels"][:, 1:] != -100).sum() for b in mb)
            total = 0.0
            for b in mb:  # the loss is written out: some models ignore num_items_in_batch
                lg = pm(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits.float()
                loss = (
                    torch.nn.functional.cross_entropy(
                        lg[:, :-1].flatten(0, 1), b["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
                    )
                    / items
                )
                loss.backward()
                total += loss.item()
            if first is None:
                first = gradients(pm)
            gn = torch.nn.utils.clip_grad_norm_(params, CLIP)
            lr = sched.get_last_lr()[0]
            opt.step()
            sched.step()
            opt.zero_grad()
            rec.append({"step": s + 1, "lr": lr, "loss": total, "num_items": int(items), "grad_norm": gn.item()})
        save_tensors(f / "run" / "step1_grads_before_clip.safetensors", first)
        save_adapter(pm, f / "run" / "final_adapter", name)
        save_tensors(f / "run" / "final_logits.safetensors", {"input_ids": ids.int(), "logits": logits(pm, ids)})
        save_json(
            f / "run" / "steps.json",
            {
                "steps": rec,
                "optimizer": "AdamW",
                "lr": LR,
                "betas": [0.9, 0.999],
                "eps": 1e-8,
                "weight_decay": 0.0,
                "schedule": "linear warmup, then cosine to 0",
                "warmup_steps": WARMUP,
                "total_steps": STEPS,
                "max_grad_norm": CLIP,
                "gradient_accumulation": ACCUM,
                "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear"},
                "quantised": quantised,
            },
        )
        for g in f.rglob("*"):
            g.chmod(0o755 if g.is_dir() else 0o644)
        print(f"families/{name}: loss {rec[0]['loss']:.4f} -> {rec[-1]['loss']:.4f}", flush=True)
