"""How long it takes to list a large data set, and how much memory.

Writes the annotation files of 240,000 videos, and for Kinetics (empty) video files in 400 class folders, to a
temporary folder. Each data set is listed in a fresh process, after all imports.

    python benchmarks/listing.py [--json results.json]
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VIDEOS, CLASSES = 240_000, 400


def make(root: Path) -> None:
    """A list, and Kinetics as it is usually stored."""
    (root / "list").mkdir()
    lines = (f"class_{i % CLASSES}/video_{i:011d}_000010_000020 300 {i % CLASSES}\n" for i in range(VIDEOS))
    (root / "list" / "train.txt").write_text("".join(lines))
    kinetics = root / "kinetics-400"
    for name in range(CLASSES):
        (kinetics / "train" / f"class {name}").mkdir(parents=True)
    rows = ["label,youtube_id,time_start,time_end,split\n"]
    for i in range(VIDEOS):
        rows.append(f"class {i % CLASSES},{i:011d},10,20,train\n")
        (kinetics / "train" / f"class {i % CLASSES}" / f"{i:011d}_000010_000020.mp4").touch()
    (kinetics / "train.csv").write_text("".join(rows))


def measure(name: str, root: str) -> dict:
    """List a data set in this process; megabytes are its growth, at the peak and afterwards."""
    from ctlib.data import load_samples

    peak, now = _peak(), _now()
    began = time.perf_counter()
    samples = load_samples(name, root, "train")
    seconds = time.perf_counter() - began
    return {
        "data": name,
        "videos": len(samples),
        "seconds": round(seconds, 2),
        "peak_mb": round(_peak() - max(peak, now)),
        "kept_mb": round(_now() - now),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _now() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        for name in ("list", "kinetics-400"):
            command = [sys.executable, __file__, "--one", name, str(Path(folder) / name)]
            runs = [json.loads(subprocess.check_output(command)) for _ in range(3)]
            rows.append(sorted(runs, key=lambda run: run["seconds"])[1])
            text = "{data}: {videos:,} videos in {seconds} s, {peak_mb} MB at the peak, {kept_mb} MB kept"
            print(text.format(**rows[-1]))
    if options.json:
        record = {"protocol": "median of 3 processes, files in the system's cache", "machine": platform.machine()}
        options.json.write_text(json.dumps({**record, "listings": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
