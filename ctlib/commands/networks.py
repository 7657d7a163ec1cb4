"""Commands that use trained networks: export."""

from pathlib import Path

from ctlib import checkpoints, deploy
from ctlib.commands.command import Options, Parser, Runner


def export(parser: Parser) -> Runner:
    """Write a trained network as an ONNX file.

    The network is optimized for inference and takes clips (N, 3, T, SIZE, SIZE), with any N. This needs the extra:
    pip install 'ctlib[onnx]'.
    """
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a checkpoint of this project")
    parser.add_argument("out", metavar="OUT", type=Path, help="the file to write; an existing one is replaced")
    trained = "(default: as the network was trained)"
    parser.add_argument("--size", type=int, help=f"pixels, height and width of a frame {trained}")
    parser.add_argument("--frames", type=int, help=f"T {trained}")
    parser.set_defaults(after_interrupt="nothing was written")

    def run(options: Options) -> int:
        deploy.export(checkpoints.load(options.checkpoint), options.out, options.size, options.frames)
        print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
        return 0

    return run
