"""tiny_llama/, tiny_mistral/, tiny_mistral_sw8/: tiny random models and their fp32 logits."""

import json

import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from common import exact_dequant, gen, save_json, save_tensors, scrub


def randomize(model, seed, std=0.07):
    """Weights of our own making, which another release of transformers cannot change."""
    g = gen(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if name.endswith("norm.weight") or "layernorm" in name:
                p.copy_(1.0 + 0.1 * torch.randn(p.shape, generator=g))
            else:
                p.copy_(torch.randn(p.shape, generator=g) * std)


def pre_v5(config):
    """The configuration as transformers before 5 spells it."""
    j = dict(config)
    rp = j.pop("rope_parameters", None)
    if "dtype" in j:
        j["torch_dtype"] = j.pop("dtype")
    if rp and "rope_theta" in rp:
        rp = dict(rp)
        j["rope_theta"] = rp.pop("rope_theta")
        if "partial_rotary_factor" in rp:
            j["partial_rotary_factor"] = rp.pop("partial_rotary_factor")
        j["rope_scaling"] = None if rp.get("rope_type") == "default" else rp
    elif rp:  # Gemma 3
        j["rope_theta"], j["rope_local_base_freq"] = (
            rp["full_attention"]["rope_theta"],
            rp["sliding_attention"]["rope_theta"],
        )
        j["rope_scaling"] = {k: v for k, v in rp["full_attention"].items() if k != "rope_theta"}
    return j


def load_nf4(folder):
    """The model in NF4 with double quantization, whose values are those of the definition, and its layers in NF4."""
    q = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=q, dtype=torch.float32, device_map="cpu", attn_implementation="eager"
    )
    table = F.get_4bit_type("nf4", device="cpu")
    names = []
    for name, layer in model.named_modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            st = layer.weight.quant_state
            assert st.nested and layer.weight.quant_type == "nf4", name
            # Else eval() repacks the weight, and it computes in bf16 from then on.
            layer.support_avx512bf16_for_cpu = False
            absmax = F.dequantize_blockwise(st.absmax, st.state2) + st.offset
            exact = exact_dequant(layer.weight.data, absmax, table, st.shape, torch.float32)
            assert torch.equal(F.dequantize_4bit(layer.weight.data, st), exact), name
            names.append(name)
    return model, names


def inputs():
    g = gen(2002)
    ids = torch.randint(3, 256, (2, 48), generator=g)
    mask = torch.ones_like(ids)
    pad_ids, pad_mask = ids.clone(), mask.clone()
    pad_ids[1, 30:], pad_mask[1, 30:] = 0, 0  # padded on the right
    left_ids, left_mask = ids.clone(), mask.clone()
    left_ids[1, :18], left_mask[1, :18] = 0, 0  # padded on the left
    return {"full": (ids, mask), "right_pad": (pad_ids, pad_mask), "left_pad": (left_ids, left_mask)}


@torch.no_grad()
def record(model, out_file, hidden=False):
    t = {}
    for k, (ids, mask) in inputs().items():
        pos = (mask.cumsum(-1) - 1).clamp(min=0)  # as generate() counts under padding on the left
        o = model(input_ids=ids, attention_mask=mask, position_ids=pos, output_hidden_states=hidden and k == "full")
        t |= {f"{k}.input_ids": ids.int(), f"{k}.attention_mask": mask.to(torch.uint8), f"{k}.position_ids": pos.int()}
        t[f"{k}.logits"] = o.logits if k == "full" else o.logits[1]
        if o.hidden_states is not None:
            for i, h in enumerate(o.hidden_states):
                t[f"{k}.hidden.{i}"] = h[0]
    save_tensors(out_file, t)


def llama_config():
    return LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        dtype="float32",
        attn_implementation="eager",
    )


def make(out):
    d = out / "tiny_llama"
    m = LlamaForCausalLM(llama_config()).float().eval()
    randomize(m, 11)
    m.save_pretrained(d)
    scrub(d)
    save_json(d / "config.pre_v5.json", pre_v5(json.loads((d / "config.json").read_text())))
    save_tensors(
        d / "rope.safetensors",
        {"inv_freq": m.model.rotary_emb.inv_freq, "plain_inv_freq": 10000.0 ** (-torch.arange(0, 16, 2).float() / 16)},
    )
    record(m, d / "logits.safetensors", hidden=True)

    base = dict(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        dtype="bfloat16",
        attn_implementation="eager",
    )
    sd = None
    for name, sw in (("tiny_mistral", None), ("tiny_mistral_sw8", 8)):
        d = out / name
        m = MistralForCausalLM(MistralConfig(sliding_window=sw, **base)).eval()
        randomize(m, 12)
        m = m.bfloat16()  # stored in bf16 and run in fp32
        if sd is None:
            sd = {k: v.clone() for k, v in m.state_dict().items()}
            m.save_pretrained(d)
        else:  # the same weights: the configuration alone is kept
            assert all(torch.equal(v, sd[k]) for k, v in m.state_dict().items())
            d.mkdir(parents=True, exist_ok=True)
            m.config.save_pretrained(d)
        scrub(d)
        inv = 10000.0 ** (-torch.arange(0, 16, 2).float() / 16)  # bfloat16() rounded the frequencies too
        m = m.float()
        m.model.rotary_emb.inv_freq = inv
        m.model.rotary_emb.original_inv_freq = inv
        record(m, d / "logits.safetensors")
    a, b = (load_file(out / n / "logits.safetensors") for n in ("tiny_mistral", "tiny_mistral_sw8"))
    diff = (a["full.logits"] - b["full.logits"]).abs().amax((0, 2))
    assert diff[:8].max() < 1e-5 and diff[8:].min() > 1e-3, diff
