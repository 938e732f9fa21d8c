"""What all parts need: seeds, files, and NF4 by its definition."""

import json
import os
import pathlib
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore")

import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def gen(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


def save_tensors(path: pathlib.Path, tensors: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = {k: v.detach().clone().contiguous() for k, v in sorted(tensors.items())}
    save_file(t, str(path))


def save_json(path: pathlib.Path, obj) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(obj, indent=1, ensure_ascii=False, sort_keys=False) + "\n", encoding="utf-8")


def unpack_codes(packed: torch.Tensor, n: int) -> torch.Tensor:
    """The codes as bitsandbytes packs them: element 2i in the high nibble of byte i, 2i + 1 in the low one."""
    p = packed.flatten().view(torch.uint8).long()
    c = torch.empty(p.numel() * 2, dtype=torch.long)
    c[0::2], c[1::2] = p >> 4, p & 15
    return c[:n]


def exact_dequant(packed, absmax, table, shape, dtype, blocksize=64):
    """The definition: a code's value times the scale of its block in fp32, then one rounding to `dtype`.

    bitsandbytes' own AVX512 code gives other values for some lengths of a row.
    """
    n = 1
    for s in shape:
        n *= s
    v = table[unpack_codes(packed, n)] * absmax.repeat_interleave(blocksize)[:n]
    return v.reshape(shape).to(dtype)


def cuda_rule_codes(w, table, blocksize=64):
    """The codes that CUDA gives: times 1/absmax in every block, the last too, then compared with midpoints by `>`."""
    x = w.flatten().float()
    n = x.numel()
    pad = (-n) % blocksize
    xb = torch.nn.functional.pad(x, (0, pad)).view(-1, blocksize)
    am = xb.abs().amax(1)
    s = (xb * (1.0 / am.clamp(min=1e-38)).unsqueeze(1)).clamp(-1, 1).flatten()[:n]
    mid = (table[:-1] + table[1:]) / 2
    return torch.bucketize(s, mid), am


def padded(rows):
    """A micro-batch of (ids, labels), padded on the right; padding has label -100."""
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, -100),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
    }
    for i, (ids, labels) in enumerate(rows):
        n = len(ids)
        batch["input_ids"][i, :n], batch["labels"][i, :n], batch["attention_mask"][i, :n] = ids, labels, 1
    return batch


def gradients(model):
    """Those of PEFT's adapters, under the names of their layers."""
    return {
        n.replace("base_model.model.", "").replace(".default", ""): p.grad.clone()
        for n, p in model.named_parameters()
        if p.requires_grad
    }


def save_adapter(model, folder: pathlib.Path, base: str) -> None:
    """PEFT's adapter over the model `base` and nothing beside it; its modules are in order, which PEFT has in a set."""
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    for file in folder.iterdir():
        file.unlink() if file.name not in ("adapter_config.json", "adapter_model.safetensors") else file.chmod(0o644)
    config = json.loads((folder / "adapter_config.json").read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"] = sorted(config["target_modules"])
    save_json(folder / "adapter_config.json", config)


def scrub(folder: pathlib.Path) -> None:
    """Takes out of JSON files what tells of the machine or of the day, and makes all files readable."""
    for file in folder.glob("*.json"):
        content = json.loads(file.read_text())
        for key in ("_name_or_path", "transformers_version"):
            content.pop(key, None)
        save_json(file, content)
    for file in folder.iterdir():
        file.chmod(0o644)
