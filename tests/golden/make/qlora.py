"""qlora_run/: 20 steps of PEFT over the tiny Llama in NF4 with double quantization, on attention, on all linear
layers, and with DoRA.


A plain loop trains; transformers' Trainer repeats each run, and the differences are recorded too.
"""

import tempfile

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import Trainer, TrainingArguments, get_cosine_schedule_with_warmup

from common import gen, gradients, padded, save_adapter, save_json, save_tensors, scrub
from models import inputs, load_nf4

STEPS, ACCUM, WARMUP, LR = 20, 2, 4, 1e-3
RUNS = {
    "attn_r8": dict(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], clip=1.0),
    "all_linear_r8": dict(target_modules="all-linear", clip=1.0),
    "dora_r8": dict(target_modules="all-linear", clip=1.0, use_dora=True),
}


def batches():
    """40 micro-batches of 2 right-padded rows; prompts and padding have label -100; token counts differ a lot."""
    g = gen(3003)
    ri = lambda a, b: int(torch.randint(a, b, (1,), generator=g))
    out = []
    for i in range(STEPS * ACCUM):
        rows = []
        for _ in range(2):
            n = ri(6, 41)
            start = ri(3, 200)
            ids = torch.tensor(
                [1] + [3 + (start + 7 * j * (1 + i % 3)) % 250 for j in range(n - 2)] + [2]
            )  # a progression, which can be learned
            noise = torch.rand(n, generator=g) < 0.1
            ids = torch.where(noise, torch.randint(3, 256, (n,), generator=g), ids)
            lab = ids.clone()
            lab[: ri(0, n - 1)] = -100
            rows.append((ids, lab))
        if i == 5:
            rows[1][1][:] = -100  # nothing of this row is trained on
        out.append(padded(rows))
    return out


def load_base(out):
    m, quantized = load_nf4(out / "tiny_llama")
    assert len(quantized) == 14, quantized
    return m


def build(out, spec, init=None):
    m = load_base(out)
    torch.manual_seed(4004)
    pm = get_peft_model(
        m,
        LoraConfig(
            r=8,
            lora_alpha=16,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
            target_modules=spec["target_modules"],
            use_dora=spec.get("use_dora", False),
        ),
    )
    for p in pm.parameters():
        if p.requires_grad:
            assert p.dtype == torch.float32
    if init is not None:
        set_peft_model_state_dict(pm, init)
    return pm


def plain_loop(pm, data, clip):
    params = [p for p in pm.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    sched = get_cosine_schedule_with_warmup(opt, WARMUP, STEPS)
    pm.train()
    rec, first = [], None
    for s in range(STEPS):
        mb = data[s * ACCUM : (s + 1) * ACCUM]
        items = sum((b["labels"][:, 1:] != -100).sum() for b in mb)
        losses = []
        for b in mb:
            loss = pm(**b, num_items_in_batch=items).loss
            loss.backward()
            losses.append(loss.item())
        if first is None:
            first = gradients(pm)
        gn = torch.nn.utils.clip_grad_norm_(params, clip)
        lr = sched.get_last_lr()[0]
        opt.step()
        sched.step()
        opt.zero_grad()
        rec.append(
            {
                "step": s + 1,
                "lr": lr,
                "loss": sum(losses),
                "micro_losses": losses,
                "num_items": int(items),
                "grad_norm": gn.item(),
                "clipped": bool(gn > clip),
            }
        )
    return rec, first


def hf_trainer(pm, data, clip):
    logs = []

    class T(Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(torch.utils.data.DataLoader(data, batch_size=None, shuffle=False))

        def log(self, l, *a, **k):
            logs.append(dict(l))

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            gradient_accumulation_steps=ACCUM,
            per_device_train_batch_size=2,
            learning_rate=LR,
            adam_beta1=0.9,
            adam_beta2=0.999,
            adam_epsilon=1e-8,
            weight_decay=0.0,
            max_grad_norm=clip,
            optim="adamw_torch",
            lr_scheduler_type="cosine",
            warmup_steps=WARMUP,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            seed=0,
            disable_tqdm=True,
            remove_unused_columns=False,
            gradient_checkpointing=False,
            bf16=False,
            fp16=False,
        )
        T(model=pm, args=args, train_dataset=data).train()
    return [l for l in logs if "loss" in l]


@torch.no_grad()
def eval_loss(m, data):
    """Token-mean cross-entropy over all micro-batches."""
    m.eval()
    n = sum((b["labels"][:, 1:] != -100).sum() for b in data)
    return sum(m(**b, num_items_in_batch=n).loss.item() for b in data)


@torch.no_grad()
def logits_of(m):
    m.eval()
    return m(input_ids=inputs()["full"][0][:1]).logits


def make(out):
    d = out / "qlora_run"
    data = batches()
    save_tensors(d / "batches.safetensors", {f"{i:02d}.{k}": v.int() for i, b in enumerate(data) for k, v in b.items()})
    base = load_base(out)
    save_tensors(d / "base_logits.safetensors", {"input_ids": inputs()["full"][0][:1].int(), "logits": logits_of(base)})
    base.save_pretrained(d / "base_bnb4bit")
    scrub(d / "base_bnb4bit")
    for name, spec in RUNS.items():
        r = d / name
        pm = build(out, spec)
        init = {k: v.clone() for k, v in get_peft_model_state_dict(pm).items()}
        assert all(v.abs().sum() == 0 for k, v in init.items() if "lora_B" in k)
        save_tensors(r / "initial_adapter.safetensors", init)
        before = eval_loss(pm, data)
        rec, first = plain_loop(pm, data, spec["clip"])
        after = eval_loss(pm, data)
        save_tensors(r / "step1_grads_before_clip.safetensors", first)
        save_adapter(pm, r / "final_adapter", "tiny_llama")
        final = {k: v.clone() for k, v in get_peft_model_state_dict(pm).items()}
        lg = logits_of(pm)
        save_tensors(r / "final_logits.safetensors", {"input_ids": inputs()["full"][0][:1].int(), "logits": lg})
        # the same by transformers
        pm2 = build(out, spec, init)
        logs = hf_trainer(pm2, data, spec["clip"])
        final2 = get_peft_model_state_dict(pm2)
        chk = {
            "trainer_max_abs_loss_diff": max(abs(a["loss"] - b["loss"]) for a, b in zip(rec, logs)),
            "trainer_max_abs_grad_norm_diff": max(
                abs(a["grad_norm"] - float(b["grad_norm"])) for a, b in zip(rec, logs)
            ),
            "trainer_max_abs_lr_diff": max(abs(a["lr"] - b["learning_rate"]) for a, b in zip(rec, logs)),
            "trainer_max_abs_weight_diff": max((final[k] - final2[k]).abs().max().item() for k in final),
            "trainer_steps_logged": len(logs),
        }
        save_json(
            r / "steps.json",
            {
                "run": name,
                "optimizer": "AdamW",
                "lr": LR,
                "betas": [0.9, 0.999],
                "eps": 1e-8,
                "weight_decay": 0.0,
                "schedule": "linear warmup, then cosine to 0",
                "warmup_steps": WARMUP,
                "total_steps": STEPS,
                "max_grad_norm": spec["clip"],
                "gradient_accumulation": ACCUM,
                "lora": {"r": 8, "alpha": 16, "dropout": 0.0, "targets": spec["target_modules"]},
                "eval_loss_all_batches_before": before,
                "eval_loss_all_batches_after": after,
                "steps": rec,
                "cross_check_with_transformers_Trainer": chk,
            },
        )
