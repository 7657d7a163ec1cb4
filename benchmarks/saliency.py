"""What explaining a clip costs: seconds of `saliency_tubes` over those of a forward pass, in one run.

The two take turns, on the same clip; the ratio is the median over the rounds, each of which has its own. The
issue's bound is 1.3.

    python benchmarks/saliency.py [--size 224] [--device cuda] [--json results.json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ctlib.cost import hardware
from ctlib.models import build_model, model_config
from ctlib.saliency import saliency_tubes

BOUND = 1.3


def seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(name: str, num_frames: int, size: int, batch: int, rounds: int, device: torch.device) -> dict:
    """Explaining and a forward pass in turn; a first round does not count."""
    torch.manual_seed(0)
    model = build_model(model_config(name, num_classes=174, num_frames=num_frames)).eval().to(device)
    clips = torch.randn(batch, 3, num_frames, size, size, device=device)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return model(clips)

    pairs = []
    for turn in range(rounds + 1):
        pair = seconds(forward, device), seconds(lambda: saliency_tubes(model, clips), device)
        if turn:
            pairs.append(pair)
    ratios = [explained / plain for plain, explained in pairs]
    return {
        "network": name,
        "clip": f"{num_frames} x {size} x {size}, batch {batch}",
        "forward_ms": round(1000 * statistics.median(plain for plain, _ in pairs), 2),
        "explained_ms": round(1000 * statistics.median(explained for _, explained in pairs), 2),
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
    parser.add_argument("--json", type=Path, help="keep the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    rows = []
    for name in options.networks:
        rows.append(measure(name, options.num_frames, options.size, options.batch, options.rounds, device))
        told = "{network}, {clip}: forward {forward_ms} ms, explained {explained_ms} ms, {ratio} times ({lowest} to "
        told += "{highest})"
        print(told.format(**rows[-1]), "within" if rows[-1]["ratio"] <= BOUND else "BEYOND", f"{BOUND}", flush=True)
    if options.json:
        protocol = f"median of {options.rounds} rounds in turn, {options.threads} thread(s), {hardware(device)}"
        record = {"protocol": protocol, "torch": torch.__version__, "bound": BOUND, "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
