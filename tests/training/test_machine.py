import pytest
import torch

from ctlib.config import ComputeConfig
from ctlib.training.machine import Machine, make_accelerator


@pytest.mark.parametrize(
    ("precision", "device", "gpu", "bf16", "expected"),
    [
        ("auto", "auto", False, False, "fp32"),
        ("auto", "auto", True, True, "bf16"),
        ("auto", "auto", True, False, "fp16"),
        ("auto", "cpu", True, True, "fp32"),
        ("fp32", "auto", True, True, "fp32"),
        ("fp16", "auto", True, True, "fp16"),
    ],
)
def test_precision_follows_the_device(monkeypatch, precision, device, gpu, bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    assert Machine().precision(ComputeConfig(precision=precision, device=device)) == expected


def test_one_notebook_may_change_its_mind_about_precision():
    for precision, name in (("bf16", "bf16"), ("fp32", "no")):
        accelerator = make_accelerator(ComputeConfig(device="cpu"), precision)
        assert (accelerator.mixed_precision, accelerator.device.type) == (name, "cpu")
