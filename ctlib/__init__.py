"""The reference study of CT-Net, the Channel Tensorization Network (ICLR 2021)."""

from importlib import import_module

# Each public name and where it is, below `ctlib`. It is imported on first use: what networks need takes seconds.
_PLACES = {
    "Checkpoint": "checkpoints:Checkpoint",
    "ModelConfig": "config:ModelConfig",
    "Weights": "weights.catalog:Weights",
    "build_model": "rivals:build_model",
    "checkpoints": "checkpoints",
    "compiled": "deploy:compiled",
    "cost": "cost",
    "create_model": "rivals:create_model",
    "ctnet_inception_v3": "rivals:ctnet_inception_v3",
    "ctnet_r50": "rivals:ctnet_r50",
    "ctnet_r101": "rivals:ctnet_r101",
    "data": "data",
    "export": "deploy:export",
    "from_pretrained": "checkpoints:from_pretrained",
    "list_models": "rivals:list_models",
    "list_weights": "weights.catalog:list_weights",
    "optimize": "deploy:optimize",
    "paper": "paper",
    "predict": "prediction:predict",
    "runs": "training.records",
    "saliency": "saliency",
    "train": "training.train:train",
    "tsn_inception_v3": "rivals:tsn_inception_v3",
    "tsn_r50": "rivals:tsn_r50",
    "tsn_r101": "rivals:tsn_r101",
}
__all__ = list(_PLACES)
__version__ = "0.2.0"


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module 'ctlib' has no attribute {name!r} (networks: ctlib.create_model or ctlib.rivals)")
    module, _, attribute = _PLACES[name].partition(":")
    place = import_module(f"ctlib.{module}")
    return getattr(place, attribute) if attribute else place


def __dir__() -> list[str]:
    return [*globals(), *__all__]
