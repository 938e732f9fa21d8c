"""Unpacks what a build needs out of PyPI's wheels of CUDA: for toolchain.sh.

    unpack.py WHEELS FOLDER PACKAGE==VERSION...

Every wheel in WHEELS is unpacked into FOLDER, laid out as a toolkit. Of the packages that are named, only headers are:
they are read out of the wheel where it lies, if its server gives parts of files.
"""

import io
import json
import pathlib
import subprocess
import sys
import urllib.request
import zipfile

# Where wheels keep what a toolkit has at its top.
ROOTS = ("nvidia/cu13/", "nvidia/cudnn/")


class Remote(io.RawIOBase):
    """A file on a server, of which only what is read is fetched."""

    def __init__(self, url):
        self.url, self.at = url, 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as answer:
            self.size = int(answer.headers["Content-Length"])

    def seekable(self):
        return True

    def readable(self):
        return True

    def tell(self):
        return self.at

    def seek(self, offset, whence=io.SEEK_SET):
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer):
        last = min(self.at + len(buffer), self.size) - 1
        if last < self.at:
            return 0
        part = urllib.request.Request(self.url, headers={"Range": f"bytes={self.at}-{last}"})
        with urllib.request.urlopen(part) as answer:
            if answer.status != 206:
                raise OSError(f"{answer.status} instead of a part of the file")
            data = answer.read()
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def pip(*arguments):
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def opened(package, wheels):
    """The wheel of a package, as a file."""
    try:
        report = pip("install", "-q", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", package)
        url = json.loads(report)["install"][0]["download_info"]["url"]
        wheel = io.BufferedReader(Remote(url), buffer_size=1 << 16)
        # A server that does not give parts of files shows it here, not in the middle of the archive.
        wheel.peek(1)
        return wheel
    except (OSError, ValueError, LookupError, TypeError, subprocess.SubprocessError) as fault:
        print(f"unpack.py: {package} is fetched whole ({fault})", file=sys.stderr)
        whole = wheels / "whole"
        pip("download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(whole), package)
        name = package.partition("==")[0].replace("-", "_")
        return open(next(whole.glob(f"{name}-*.whl")), "rb")


def place(name):
    """Where a file of a wheel goes, or nothing."""
    if name.startswith("include/"):
        return name
    for root in ROOTS:
        if name.startswith(root):
            return name.removeprefix(root)
    return None


def unpack(wheel, folder, headers_only=False):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            rest = place(member.filename)
            if not rest or member.is_dir() or headers_only and not rest.startswith("include/"):
                continue
            target = folder / rest
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))
            if "bin" in target.parts:
                target.chmod(0o755)


def main():
    wheels, folder, *packages = sys.argv[1:]
    wheels, folder = pathlib.Path(wheels), pathlib.Path(folder)
    for wheel in sorted(wheels.glob("*.whl")):
        unpack(wheel, folder)
    for package in packages:
        with opened(package, wheels) as wheel:
            unpack(wheel, folder, headers_only=True)


if __name__ == "__main__":
    main()
