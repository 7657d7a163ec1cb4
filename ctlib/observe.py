"""A network in evaluation mode and listened to, for a while: what looks into one leaves it as it was."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn


@contextmanager
def observed(network: nn.Module, after: Mapping[nn.Module, Callable] | None = None) -> Iterator[None]:
    """Inside, `network` is in evaluation mode and its modules are listened to; after, all is as it was.

    That holds after errors too. Every module gets back the mode that it had, as some may be frozen in evaluation
    mode. Gradients are left to the caller.

    Args:
        network: any module.
        after: module -> a forward hook, called with the module, its inputs (a tuple) and its output.
    """
    modes = [(module, module.training) for module in network.modules()]
    hooks = []
    try:
        hooks += [module.register_forward_hook(hook) for module, hook in (after or {}).items()]
        network.eval()
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
