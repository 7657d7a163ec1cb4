"""Time per slider move in the course's explorers: seconds from a new setting to the picture's bytes.

The aim is 0.2 seconds, so that figure and numbers follow the hand. The explorers of lessons 3 and 5 show clips, gates
and scores that were computed before, so a move only draws. Here these are random, in the notebooks' shapes.

    python benchmarks/explorers.py [--moves 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import pandas as pd
import torch

from ctlib.cost import hardware
from ctlib.teaching import lesson1, lesson2, lesson3, lesson4, lesson5, lesson6
from ctlib.teaching.shell import View

CLIPS = torch.randn(40, 3, 8, 48, 48)
FILMS = lesson3.films(10, torch.Generator().manual_seed(0))
GATES = lesson3.Snapshot(0, {"temporal": torch.rand(10, 16, 8)}, torch.randn(10, 3))
CLASSES = ("one way", "the other way")
SCORES = {name: torch.randn(40, 2) for name in ("TSN", "one CT-Block")}
TOP1 = pd.DataFrame(80 + torch.randn(5, 11).numpy())  # seeds x rows
RESNET101 = lesson4.config_of("resnet101", "CT-Block", ("every other",) * 4)
# Explorer -> its view after the n-th move, n from 1 on.
MOVES: dict[str, Callable[[int], View]] = {
    "1: channel grid": lambda n: lesson1.tensorization(128, (16, 8), 1, num_frames=8, size=14 + 2 * n),
    "2: interact field": lambda n: lesson2.interaction(4, 1 + n % 4),
    "3: gates": lambda n: lesson3.watched(FILMS, n % 10, GATES, "temporal"),
    "4: block": lambda n: lesson4.block(1 + n % 3, pointwise=True, excitation="te"),
    "4: ResNet-101": lambda n: lesson4.network(RESNET101, "CT-Block", 96 + 16 * n),
    "5: clip browser": lambda n: lesson5.browse(
        CLIPS, CLASSES * 20, n % 40, lesson5.ORDERS[n % len(lesson5.ORDERS)], 1 + n % 8, SCORES, CLASSES
    ),
    "6: intervals": lambda n: lesson6.intervals(TOP1, 0, 2 + n % 3, 1.0, 0.05),
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
