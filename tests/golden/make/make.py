"""Makes the golden vectors again: python make.py OUT [PART...]

A reference in Python for remaking vectors: neither the product nor its tests run it. Writes nf4/, tiny_*/, qlora_run/,
families/ and chat/ into OUT, and then tells which files differ from those that are kept, and their tensors by how much.
PART is one or more of nf4, models, qlora, families, chat; qlora takes the models that models made. The READMEs are
written by hand and not made.

Weights, batches, codes and scales are bit-identical. Sums in fp32, and with them logits, losses and gradients, are
those of the kernels that PyTorch takes on the CPU: they differ in the last bits on another one.
"""

import argparse
import pathlib

from safetensors.torch import load_file

import chat
import families
import models
import nf4
import qlora

KEPT = pathlib.Path(__file__).resolve().parent.parent
PARTS = {"nf4": nf4.make, "models": models.make, "qlora": qlora.make, "families": families.make, "chat": chat.make}


def largest_difference(file, other):
    """Of all tensors of two files; None where they do not hold the same ones."""
    ours, theirs = load_file(file), load_file(other)
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        return None
    return max((ours[k].double() - theirs[k].double()).abs().nan_to_num().max().item() for k in ours)


def compare(out):
    """What of `out` differs from what is kept."""
    for file in sorted(f for f in out.rglob("*") if f.is_file()):
        name = file.relative_to(out)
        kept = KEPT / name
        if not kept.exists():
            print(f"{name}: not kept")
        elif file.read_bytes() != kept.read_bytes():
            tensors = file.suffix == ".safetensors"
            print(f"{name}: differs" + (f", by {largest_difference(file, kept)} at most" if tensors else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("parts", nargs="*", metavar="PART")
    arguments = parser.parse_args()
    out = arguments.out
    if (out / "make").exists():
        parser.error(f"{out} is the folder of the kept vectors: give another one")
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    for name in arguments.parts or PARTS:
        print(name, flush=True)
        PARTS[name](out)
    compare(out)


if __name__ == "__main__":
    main()
