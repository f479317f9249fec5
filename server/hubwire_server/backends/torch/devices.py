"""Which device a model runs on, and in which number format."""

from __future__ import annotations

import torch

from hubwire_server.errors import HubwireError, Reason

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def detect_device() -> str:
    """The best device of this machine: "cuda:0", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" detects it. Raises HubwireError (MODEL_LOAD_FAILED) where this machine lacks it."""
    try:
        device = torch.device(detect_device() if name == "auto" else name)
    except RuntimeError as error:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"{name!r} is no device: use auto, cpu, cuda:0 or mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"this machine has no device {name!r}")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of a name. "auto" is half precision on CUDA and float32 elsewhere. Raises HubwireError (MODEL_LOAD_FAILED)."""
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name not in DTYPES:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"{name!r} is no number format: use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def computes_natively(dtype: str) -> bool:
    """Whether this CPU has instructions for a half precision, without which it is slower than float32."""
    supported = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}
    operator = getattr(torch.ops.mkldnn, supported[dtype], None) if torch._C._has_mkldnn else None
    return operator is not None and bool(operator())
