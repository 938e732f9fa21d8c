"""Takes the programs that cargo made into a folder: built.py MESSAGES FOLDER

MESSAGES are cargo's own, as JSON lines. Fails where compiled kernels are empty, as the stand-in for nvcc leaves them.
"""

import json
import pathlib
import shutil
import sys

# Kernels of candle's that no training step reaches: a bundle has them empty.
UNREACHED = {"conv.ptx", "sort.ptx"}


FATBIN = b"\x50\xed\x55\xba"


def has_code(path):
    """Whether a real nvcc wrote it."""
    content = path.read_bytes()
    return content.startswith(FATBIN) if path.suffix == ".fatbin" else b".entry" in content


def empty_kernels(folder):
    files = [p for p in folder.rglob("*") if p.suffix in (".ptx", ".fatbin") and p.name not in UNREACHED]
    return [p for p in files if not has_code(p)]


def main(messages, folder):
    empty, copied = [], set()
    for line in open(messages):
        message = json.loads(line)
        package = message.get("package_id", "").replace("#", "/").replace("@", "/").split("/")
        if message["reason"] == "build-script-executed" and {"candle-kernels", "qlora-kernels", "kernels"} & set(package):
            empty += empty_kernels(pathlib.Path(message["out_dir"]))
        if message["reason"] == "compiler-artifact" and message.get("executable"):
            target, crate = message["target"], pathlib.Path(message["manifest_path"]).parent.name
            if target["kind"] == ["bin"]:
                name = target["name"]
            elif target["kind"] == ["test"]:
                name = f"tests/{crate}-{target['name']}"
            else:
                continue
            shutil.copy(message["executable"], folder / name)
            copied.add(name)
    if empty:
        sys.exit("empty kernels: " + ", ".join(map(str, empty)) + "; remove the target folder, and build with a real nvcc")
    missing = {"qlora-worker", "tests/kernels-device", "tests/kernels-operations", "tests/kernels-golden", "tests/trainer-golden"} - copied
    if missing:
        sys.exit("cargo made no " + ", ".join(sorted(missing)))


main(sys.argv[1], pathlib.Path(sys.argv[2]))
