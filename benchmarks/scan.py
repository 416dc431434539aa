"""Time the reading of large folders: scan.py [--pictures 10000] [--side 256].

Run with the project's own Python. Each folder holds so many JPEG pictures with a caption file each, all of
different bytes; each size is read in a process of its own, once afresh and once more, as a queue does that
finds nothing changed. Every picture is decoded in full. Memory is the process's peak above what it had
before, so that two sizes show what a picture costs.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SHARES = (0.1, 1.0)


def write_folder(folder: Path, number: int, side: int) -> None:
    """Pictures of three shapes; trailing bytes make each file another one."""
    chance = np.random.default_rng(0)
    encoded = []
    for height in (side, side * 3 // 4, side * 4 // 3):
        coarse = chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(coarse).resize((side, height), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        encoded.append(buffer.getvalue())
    for index in range(number):
        (folder / f"{index:06}.jpg").write_bytes(encoded[index % 3] + index.to_bytes(4, "big"))
        (folder / f"{index:06}.txt").write_text(f"a zorp, number {index}", "utf-8")


def peak_mib() -> float:
    """The most memory this process has held; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def measure(folder: Path, side: int) -> dict[str, float]:
    """Read one folder in this process."""
    sys.path.insert(0, str(ROOT))
    from trainer.config import DatasetConfig
    from trainer.data.dataset import folder_fingerprint, load_dataset

    config = DatasetConfig(resolution=max(64, side // 64 * 64))
    heard: list[int] = []
    before, start = peak_mib(), time.perf_counter()
    dataset = load_dataset(folder, config, lambda done, _: heard.append(done))
    first = time.perf_counter()
    load_dataset(folder, config)
    again = time.perf_counter()
    assert folder_fingerprint(folder, config) == dataset.fingerprint
    return {
        "pictures": len(dataset.pictures),
        "progress": len(heard),
        "first": first - start,
        "again": again - first,
        "asked": time.perf_counter() - again,
        "mib": peak_mib() - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=10_000, help="in the larger folder")
    parser.add_argument("--side", type=int, default=256, help="width of each picture, pixels")
    parser.add_argument("--measure", type=Path, help="read this folder in this process")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.side)))
        return
    print("| pictures | progress | first reading, s | a second, s | is it changed?, s | peak memory, MiB |")
    print("|---|---|---|---|---|---|")
    for share in SHARES:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), round(options.pictures * share), options.side)
            command = [sys.executable, __file__, "--measure", folder, "--side", str(options.side)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            "| {pictures} | {progress} | {first:.1f} | {again:.1f} | {asked:.1f} | {mib:.0f} |".format(
                **found
            )
        )


if __name__ == "__main__":
    main()
