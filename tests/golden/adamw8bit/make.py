"""Six updates by bitsandbytes' AdamW8bit on the CPU, recorded: python make.py [OUT]

A reference in Python for remaking updates.safetensors: neither the product nor its tests run it.
"""

import pathlib
import sys

import bitsandbytes as bnb
import torch
from safetensors.torch import save_file

N, STEPS = 700, 6

torch.set_num_threads(1)
chance = torch.Generator().manual_seed(7007)
weight = torch.nn.Parameter(torch.randn(N, generator=chance) * 0.02)
optimizer = bnb.optim.AdamW8bit([weight], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, min_8bit_size=1)
initial, gradients, values = weight.data.clone(), [], []
for step in range(STEPS):
    gradient = torch.randn(N, generator=chance) * torch.logspace(-6, 0, N) * (0.5 + step)
    gradient[256:300] = 0
    if step < 3:
        gradient[512:] = 0  # the moments of the last block stay zero for a while
    weight.grad = gradient.clone()
    optimizer.step()
    gradients.append(gradient)
    values.append(weight.data.clone())
state = optimizer.state[weight]
out = {
    "initial": initial,
    "gradients": torch.stack(gradients),
    "values": torch.stack(values),
    "first_codes": state["state1"],
    "second_codes": state["state2"],
    "first_scales": state["absmax1"],
    "second_scales": state["absmax2"],
    "signed": state["qmap1"],
    "unsigned": state["qmap2"],
}
file = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "updates.safetensors"
save_file({name: tensor.detach().contiguous() for name, tensor in out.items()}, file)
