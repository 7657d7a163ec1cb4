"""What a move of a slider costs: seconds from a setting that was not shown before to the picture's bytes.

0.2 seconds are aimed at, so that figure and numbers follow the hand. The explorers of notebooks 3 and 5 show clips
that lie in memory, and compute no more than the others.

    python benchmarks/explorers.py [--moves 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from ctlib.cost import hardware
from ctlib.teaching import explorers, explorers_trunk
from ctlib.teaching.explorers import View

EVERY_OTHER = ("every other",) * 4
# Explorer -> what it shows after the n-th move, n from 1 on.
MOVES: dict[str, Callable[[int], View]] = {
    "1: channel grid": lambda n: explorers.tensorization(128, (16, 8), 1, num_frames=8, size=14 + 2 * n),
    "2: interact field": lambda n: explorers.interaction(4, 1 + n % 4),
    "4: ResNet-101": lambda n: explorers_trunk.network("resnet101", "CT-Block", EVERY_OTHER, 8, 96 + 16 * n),
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
