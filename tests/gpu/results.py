"""Figures of a visit: reads what phases printed, writes JSON lines, prints the table.

    results.py card BUNDLE                                      the GPU, and what bundle.json says, as JSON
    results.py record PHASE STATUS SECONDS OUTPUT CARD RESULTS COMMAND
    results.py table RESULTS                                    at most 9,500 characters
"""

import datetime
import json
import os
import re
import subprocess
import sys

LARGEST_TABLE = 9500
LONGEST_LINE = 220
# Exit statuses of `timeout`.
OUT_OF_TIME = {124, 137}
NOTED = re.compile(r"^(test result|test .*FAILED|parity:|loss curve|.*ERROR SUMMARY|.*panicked at|note: |ok |no |-- |kernels of |GPU )")


def card():
    """Name, memory and driver of the first GPU."""
    fields = ["name", "memory.total", "driver_version", "clocks.max.sm", "power.limit"]
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
        found = dict(zip(fields, (part.strip() for part in line.split(","))))
    except (OSError, subprocess.SubprocessError, IndexError):
        return {"card": "emulated GPU" if os.environ.get("QLORA_EMULATED_GPU") else "unknown"}
    return {"card": found["name"], "memory_mib": float(found["memory.total"]), "driver": found["driver_version"],
            "sm_mhz_max": found["clocks.max.sm"], "watts_max": found["power.limit"]}


def first_word(value, words):
    """The first of `words` that `value` has."""
    return next((value[word] for word in words if word in value), None)


def describe_step(r):
    parts = []
    if r.get("tokens_per_second"):
        parts.append(f"{r['tokens_per_second']:.0f} tok/s")
    if r.get("seconds_per_step"):
        parts.append(f"{1e3 * r['seconds_per_step']:.0f} ms/step")
    if r.get("peak_bytes") and r.get("planned_bytes"):
        off = 100 * (r["planned_bytes"] / r["peak_bytes"] - 1)
        parts.append(f"peak {r['peak_bytes'] / 1e9:.2f} GB, plan {off:+.1f} %")
    if r.get("first_step_seconds"):
        parts.append(f"first step {r['first_step_seconds']:.1f} s")
    if r.get("loss") is not None:
        parts.append(f"loss {r['loss']:.4f}")
    share = (r.get("gpu") or {}).get("model_flops_utilization")
    if share:
        parts.append(f"{100 * share:.0f} % of the data sheet")
    kept = r.get("saved") or r.get("kept") or {}
    parts.append("kept " + "+".join(f"{n} {name}" for name, n in kept.items()))
    dequantized = first_word(r, ["dequantized", "dequantised", "written_out"])
    parts.append(f"{dequantized} blocks in bf16, attention {r.get('attention')}")
    return ", ".join(parts)


def describe_kernels(kernels):
    """A line for each operation, those that take most of a step first; then those that a step does not have."""
    lines = []
    for k in sorted(kernels, key=lambda k: -k.get("step_milliseconds", 0)):
        share = f"{100 * k['share']:4.0f} %" if isinstance(k.get("share"), (int, float)) else ""
        times = f"{k['calls']:3d} x = {k['step_milliseconds']:7.2f} ms" if k.get("calls") else " " * 17
        lines.append(f"{k['name'][:36]:<36}{k['milliseconds']:8.3f} {times} {k['rate'] / 1e12:7.2f} T{k['unit']:<6} {share}")
    step = sum(k.get("step_milliseconds", 0) for k in kernels)
    return [f"all operations of a step: {step:.1f} ms"] + lines if step else lines


def describe_peer(r):
    if r.get("status") != "ok":
        return [f"{r.get('peer')} {r.get('status')}: {str(r.get('error'))[:100]}"]
    return [f"{r['peer']} {r['tok_s']} tok/s, {1e3 * r['step_s_median']:.0f} ms/step, peak {r.get('peak_alloc_gib')} GiB "
            f"(reserved {r.get('peak_reserved_gib')}), first step {r.get('first_step_done_s')} s"]


def describe_ceilings(r):
    if r.get("status") != "ok":
        return [str(r)[:LONGEST_LINE]]
    lines = [" ".join(f"{m['m']}x{m['n']}x{m['k']}: {m['tflops_median']}" for m in r["matmul_bf16"]) + " TFLOP/s"]
    lines.append(f"sustained {(r.get('matmul_sustained') or {}).get('tflops')} TFLOP/s at "
                 f"{(r.get('matmul_sustained') or {}).get('watts')} W; copy "
                 + ", ".join(str(c["gb_s_read_plus_write"]) for c in r["copy"]) + " GB/s; bitsandbytes dequantizes at "
                 + f"{(r.get('bnb_nf4_dequantize') or {}).get('gb_s')} GB/s")
    return lines


def describe(r):
    """The lines of one figure."""
    what = r.get("what")
    if "seconds_per_step" in r or "first_step_seconds" in r:
        return [describe_step(r)] + describe_kernels(r.get("kernels") or [])
    if what == "peer":
        return describe_peer(r)
    if what == "ceilings":
        return describe_ceilings(r)
    if what == "attention" and "fwd_tflops" in r:
        return [f"{r['backend']} head {r['head_dim']}, {r['T']} tokens: forward {r['fwd_ms']} ms {r['fwd_tflops']} TFLOP/s, "
                f"backward {r['bwd_ms']} ms {r['bwd_tflops']} TFLOP/s"]
    if what == "loss-curve":
        keys = ("status", "error", "seconds", "loss_first", "loss_last10_mean")
        return ["PEFT + bitsandbytes: " + ", ".join(f"{k} {r[k]}" for k in keys if k in r)]
    if r.get("test") == "loss-curve":
        off, limits = r["differences"], r["limits"]
        return [f"{r['steps']} steps in {r['compute']} on {r['device']} beside {r['peer']}, {r['seconds']:.0f} s: loss {r['loss_first']:.4f} to "
                f"{r['loss_tail']:.4f}, PEFT's {r['peer_loss_tail']:.4f}",
                f"largest difference {off['loss']['largest']:.1e} (limit {limits['loss']['largest']:.1e}), mean {off['loss']['mean']:.1e} "
                f"({limits['loss']['mean']:.1e}), gradient norm {off['grad_norm']['largest']:.1e} ({limits['grad_norm']['largest']:.1e}), "
                f"end {off['tail']:.1e} ({limits['tail']:.1e})"]
    if "checks" in r:
        return [f"{'ok' if c['ok'] else 'no'} {c['name']}: {c['text']}"[:LONGEST_LINE] for c in r["checks"]]
    return [", ".join(f"{k} {v}" for k, v in r.items() if not isinstance(v, (dict, list)))]


def figures(text):
    """Every JSON object that ends a line; tests print theirs behind their name."""
    for line in text.splitlines():
        start = line.find('{"')
        if start >= 0 and line.endswith("}"):
            try:
                yield json.loads(line[start:])
            except ValueError:
                continue


def tests(text):
    """Counts of passed and failed tests; nothing where no test program ran."""
    found = re.findall(r"^test result: .* (\d+) passed; (\d+) failed", text, re.M)
    return {"passed": sum(int(p) for p, _ in found), "failed": sum(int(f) for _, f in found)} if found else None


def outcome(status, text):
    if status == "skipped":
        return status
    status, counts = int(status), tests(text)
    if status in OUT_OF_TIME:
        return "out of time"
    if status != 0:
        return f"failed, {status}"
    if counts is not None and counts["passed"] == 0:
        return "no test ran"
    return "ok"


def record(phase, status, seconds, output, card_file, results, command):
    text = open(output, errors="replace").read()
    common = {"phase": phase, **json.load(open(card_file)), "date": datetime.datetime.now(datetime.UTC).strftime("%F %T"),
              "command": command}
    notes = []
    for figure in figures(text):
        notes += describe(figure)
    notes += [line for line in text.splitlines() if NOTED.match(line)]
    result = outcome(status, text)
    if result == "skipped":
        notes = []
    elif result != "ok" or not notes:
        notes += [line for line in text.strip().splitlines()[-4:] if line not in notes and not line.startswith("{")]
    with open(results, "a") as out:
        for figure in figures(text):
            out.write(json.dumps({**common, "figure": figure}) + "\n")
        end = {"outcome": result, "seconds": float(seconds), "tests": tests(text), "notes": [n[:LONGEST_LINE] for n in notes]}
        out.write(json.dumps({**common, **end}) + "\n")
    print(f"{result}, {seconds} s")


def table(results):
    """One line a phase, then what it said, as far as there is room: a part of the room for each phase."""
    ends = [r for r in map(json.loads, open(results)) if "outcome" in r]
    heads = [f"{r['phase']:<11} {r['outcome']:<12} {r['seconds']:4.0f} s" for r in ends]
    room = LARGEST_TABLE - sum(len(h) + 1 for h in heads)
    wanted = [sum(len(n) + 4 for n in r["notes"]) for r in ends]
    # Whoever wants less than an even share leaves the rest to the others.
    shares, left = {}, len(ends)
    for i in sorted(range(len(ends)), key=lambda i: wanted[i]):
        shares[i] = min(wanted[i], room // left)
        room, left = room - shares[i], left - 1
    for i, (head, end) in enumerate(zip(heads, ends)):
        print(head)
        used = 0
        for n, note in enumerate(end["notes"]):
            used += len(note) + 4
            if used > shares[i]:
                print(f"   ({len(end['notes']) - n} more)"[: max(0, shares[i])])
                break
            print(f"   {note}")


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "card":
        print(json.dumps({**card(), **json.load(open(arguments[0]))}))
    elif command == "record":
        record(*arguments)
    else:
        table(*arguments)
