"""nf4/: matrices quantized by bitsandbytes in blocks of 64, with and without double quantization."""

import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch

from common import cuda_rule_codes, exact_dequant, gen, save_json, save_tensors, unpack_codes


def cases():
    g = gen(1001)
    r = lambda *s: torch.randn(*s, generator=g)
    table = F.get_4bit_type("nf4", device="cpu")
    mid = (table[:-1] + table[1:]) / 2
    yield "f32_64x64", r(64, 64) * 0.05
    yield "f32_32x128", r(32, 128) * 0.02
    yield "f32_heavy_tail_24x192", r(24, 192) * torch.exp(r(24, 192))
    yield "f32_7x96", r(7, 96)  # a row is no multiple of a block, and the last block has 32
    yield "f32_10x288", r(10, 288) * 0.1  # blocks cross rows
    yield "f32_5x100", r(5, 100)  # the last block has 52
    yield "f32_63x65", r(63, 65)  # an odd number of elements leaves half a byte
    yield "f32_3x1", r(3, 1)
    yield "f32_1x300", r(1, 300)
    yield "bf16_64x128", (r(64, 128) * 0.03).bfloat16()
    yield "bf16_33x31", r(33, 31).bfloat16()  # an odd number again
    # 600 blocks: two blocks of 256 scales, and a last one of 88
    yield "bf16_120x320_nested_tail", (r(120, 320) * torch.exp(0.7 * r(120, 1))).bfloat16()
    # a scale of exactly 1, then midpoints between codes, and the floats beside each of them
    up = torch.nextafter(mid, torch.tensor(2.0))
    dn = torch.nextafter(mid, torch.tensor(-2.0))
    row = torch.cat([torch.tensor([1.0]), mid, up, dn, torch.tensor([-1.0, 0.0, -0.0])])
    row = torch.nn.functional.pad(row, (0, 64 - row.numel()), value=0.5)
    scales = torch.tensor([1.0, 2.0, 0.5, 2.0**-20, 2.0**40, 3.0, 0.1, 7e-3]).unsqueeze(1)
    yield "f32_ties_8x64", row.unsqueeze(0) * scales  # rows times a power of two stay ties, others are rounded
    yield "bf16_ties_8x64", (row.unsqueeze(0) * scales).bfloat16()
    # ties in a last block that is not full: bitsandbytes divides there on a CPU; CUDA multiplies everywhere
    yield "f32_tie_tail_1x108", torch.cat([r(1, 64), (row[:44] * 3.0).unsqueeze(0)], 1)
    z = torch.zeros(8, 64)
    z[1] = r(64)
    z[3, 5] = -0.0
    z[4, 0] = 1e-30
    z[5, 63] = -4.0
    z[6] = 0.25
    yield "f32_zero_blocks_8x64", z
    zt = torch.zeros(1, 100)
    zt[0, :64] = r(64)
    yield "f32_zero_tail_1x100", zt
    ext = r(6, 64)
    ext[0] *= 1e-39
    ext[1] *= 1e-44
    ext[2] *= 1e30
    ext[3] = 3.0e38
    ext[4] = -1e-38
    ext[5, 10] = 1e6
    yield "f32_extremes_6x64", ext
    yield "f16_16x64", (r(16, 64) * 0.1).half()


def make(out):
    d = out / "nf4"
    table = F.get_4bit_type("nf4", device="cpu")
    nested_table = F.create_dynamic_map().float()
    save_tensors(
        d / "tables.safetensors", {"nf4": table, "midpoints": (table[:-1] + table[1:]) / 2, "dynamic8": nested_table}
    )
    index = []
    for name, w in cases():
        n = w.numel()
        q, st = F.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=False)
        q2, st2 = F.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
        assert torch.equal(q, q2) and st2.nested and torch.equal(st2.state2.code.float(), nested_table)
        exact = exact_dequant(q, st.absmax, table, w.shape, w.dtype)
        am2 = (
            nested_table[st2.absmax.long()] * st2.state2.absmax.repeat_interleave(256)[: st2.absmax.numel()]
            + st2.offset
        )
        exact2 = exact_dequant(q, am2, table, w.shape, w.dtype)
        assert torch.equal(am2, F.dequantize_blockwise(st2.absmax, st2.state2) + st2.offset)
        got, got2 = F.dequantize_4bit(q, st), F.dequantize_4bit(q2, st2)
        same = got.numel() == n and torch.equal(got.reshape(w.shape), exact)
        same2 = got2.numel() == n and torch.equal(got2.reshape(w.shape), exact2)
        # how many codes the rule of CUDA, and the nearest entry of the table, would change
        c = unpack_codes(q, n)
        cc, _ = cuda_rule_codes(w, table)
        z = st.absmax - st2.offset
        zb = torch.nn.functional.pad(z, (0, (-z.numel()) % 256)).view(-1, 256)
        s = (zb * (1.0 / zb.abs().amax(1, keepdim=True).clamp(min=1e-38))).clamp(-1, 1).flatten()[: z.numel()]
        near = (s[:, None] - nested_table[None]).abs().argmin(1)
        t = {
            "weight": w,
            "packed": q.flatten(),
            "absmax": st.absmax,
            "dequant": exact,
            "nested.absmax_u8": st2.absmax,
            "nested.absmax": st2.state2.absmax,
            "nested.offset": st2.offset.reshape(1),
            "nested.dequant": exact2,
        }
        if not torch.equal(near.to(torch.uint8), st2.absmax):
            t["nested.absmax_u8_nearest"] = near.to(torch.uint8)
        save_tensors(d / f"{name}.safetensors", t)
        index.append(
            {
                "name": name,
                "dtype": str(w.dtype).split(".")[1],
                "shape": list(w.shape),
                "elements": n,
                "packed_bytes": q.numel(),
                "blocks": st.absmax.numel(),
                "nested_blocks": st2.state2.absmax.numel(),
                "bnb_cpu_dequant_equals_exact": bool(same),
                "bnb_cpu_nested_dequant_equals_exact": bool(same2),
                "bnb_cpu_dequant_shape": list(got.shape),
                "codes_differing_from_cuda_rule": int((c != cc).sum()),
                "nested_codes_differing_from_nearest": int((near != st2.absmax.long()).sum()),
                "pad_nibble": int(q.flatten()[-1] & 15) if n % 2 else None,
                "rel_mse": (
                    float(((exact.double() - w.double()) ** 2).sum() / (w.double() ** 2).sum())
                    if w.abs().sum() > 0
                    else None
                ),
            }
        )
    save_json(d / "index.json", {"blocksize": 64, "nested_blocksize": 256, "cases": index})
    # layers as a checkpoint of quantized weights holds them
    ser = {}
    for pre, cs, dt in (("plain", False, torch.float32), ("double", True, torch.bfloat16)):
        w = (torch.randn(96, 128, generator=gen(77)) * 0.04).to(dt)
        l = bnb.nn.Linear4bit(128, 96, bias=False, quant_type="nf4", compress_statistics=cs)
        l.weight = bnb.nn.Params4bit(w, requires_grad=False, quant_type="nf4", compress_statistics=cs)
        l = l.to("cpu")
        ser.update({f"{pre}.{k}": v for k, v in l.state_dict().items()})
        ser[f"{pre}.expected_dequant"] = F.dequantize_4bit(l.weight.data, l.weight.quant_state)
    save_tensors(d / "hf_serialized_layers.safetensors", ser)
