"""How the arithmetic runs on a device: memory layout, faster operations, recomputed and folded modules.

Nothing here is an idea of the paper, and nothing here changes a result by more than rounding.
"""

from torch import nn

from ctlib.kernels.choice import report, use

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

__all__ = ["BATCH_NORMS", "report", "use"]
