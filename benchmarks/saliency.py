"""The cost of explaining a clip: time of `saliency_tubes` over that of a forward pass.

Both are timed in turn on the same clip. The ratio is the median over rounds of the ratio in one round; it should be
at most 1.3.

    python benchmarks/saliency.py [--size 224] [--device cuda] [--json results.json]
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch
from timing import Clock

from ctlib.cost import hardware
from ctlib.models import build_model, model_config
from ctlib.saliency import saliency_tubes

BOUND = 1.3


def measure(name: str, num_frames: int, size: int, batch: int, clock: Clock) -> dict:
    """Time explaining and a forward pass in turn."""
    torch.manual_seed(0)
    model = build_model(model_config(name, num_classes=174, num_frames=num_frames)).eval().to(clock.device)
    clips = torch.randn(batch, 3, num_frames, size, size, device=clock.device)

    with torch.no_grad():
        times = clock.in_turn({"forward": model, "explained": partial(saliency_tubes, model)}, clips)
    ratios = [explained / plain for plain, explained in zip(times["forward"], times["explained"], strict=True)]
    return {
        "network": name,
        "clip": f"{num_frames} x {size} x {size}, batch {batch}",
        "forward_ms": round(1000 * statistics.median(times["forward"]), 2),
        "explained_ms": round(1000 * statistics.median(times["explained"]), 2),
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["ctnet_r50", "tsn_r50", "ctnet_quickstart"])
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = Clock(torch.device(options.device), options.rounds)
    rows = []
    for name in options.networks:
        rows.append(measure(name, options.num_frames, options.size, options.batch, clock))
        line = "{network}, {clip}: forward {forward_ms} ms, explained {explained_ms} ms, {ratio} times ({lowest} to "
        line += "{highest})"
        print(line.format(**rows[-1]), "within" if rows[-1]["ratio"] <= BOUND else "BEYOND", f"{BOUND}", flush=True)
    if options.json:
        protocol = f"median of {options.rounds} rounds in turn, {options.threads} thread(s), {hardware(clock.device)}"
        record = {"protocol": protocol, "torch": torch.__version__, "bound": BOUND, "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
