"""What a move of a slider costs: seconds from a setting that was not shown before to the picture's bytes.

0.2 seconds are aimed at, so that figure and numbers follow the hand. The explorers of notebooks 3 and 5 show clips,
gates and scores that were computed before: a move only draws. They are random here, in the notebooks' shapes.

    python benchmarks/explorers.py [--moves 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from ctlib.cost import hardware
from ctlib.data.transforms import to_pixels
from ctlib.teaching import explorers, explorers_backbone, explorers_networks
from ctlib.teaching.explorers import View

EVERY_OTHER = ("every other",) * 4
CLIPS = torch.randn(40, 3, 8, 48, 48)
GATES = {"spatial": torch.rand(16, 1, 12, 12), "temporal": torch.rand(16, 8, 1, 1), "channel": torch.rand(16, 8, 1, 1)}
CLASSES = ("one way", "the other way")
SCORES = {name: torch.randn(40, 2) for name in ("TSN", "one CT-Block")}
ORDERS = explorers_networks.ORDERS
# Explorer -> what it shows after the n-th move, n from 1 on.
MOVES: dict[str, Callable[[int], View]] = {
    "1: channel grid": lambda n: explorers.tensorization(128, (16, 8), 1, num_frames=8, size=14 + 2 * n),
    "2: interact field": lambda n: explorers.interaction(4, 1 + n % 4),
    "3: attention": lambda n: explorers_networks.attention_over_time(to_pixels(CLIPS[n % 40]), GATES, n % 16),
    "4: ResNet-101": lambda n: explorers_backbone.network("resnet101", "CT-Block", EVERY_OTHER, 8, 96 + 16 * n),
    "5: clip browser": lambda n: explorers_networks.browse(
        CLIPS, CLASSES * 20, n % 40, ORDERS[n % len(ORDERS)], SCORES, CLASSES
    ),
}


def seconds(move: Callable[[int], View], moves: int) -> Iterator[float]:
    move(0).picture()  # fonts, colour maps and networks are looked up once
    for n in range(1, moves + 1):
        began = time.perf_counter()
        move(n).picture()
        yield time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=9)
    options = parser.parse_args()
    print(f"median and longest of {options.moves} moves, {hardware(torch.device('cpu'))}")
    for name, move in MOVES.items():
        taken = list(seconds(move, options.moves))
        print(f"{name:20} {1000 * statistics.median(taken):6.0f} ms {1000 * max(taken):6.0f} ms", flush=True)


if __name__ == "__main__":
    main()
