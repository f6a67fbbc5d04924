"""Keep dependencies from using the network or HOME by themselves. Imported by `impasto` before anything else.

Some libraries report to their makers, look for updates, or fill folders below HOME as soon as they are loaded. They
read the environment once, at import, so it has to be set before; children inherit it. A variable that the user has set
stays as it is. The tables below are the only place where this is decided; docs/privacy.md says it in words.
"""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

SILENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime: sends events, writes a device id and a database below ~/.cache
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and transformers through it
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",  # it asks for its newest version
    "DO_NOT_TRACK": "1",  # an agreement that several libraries keep
    "DISABLE_TELEMETRY": "1",  # transformers and diffusers before they took the hub's name for it
}
"""Variable → value: no telemetry. Harmless in a program that has imported impasto for another purpose."""

CACHES = {
    "CUDA_CACHE_PATH": "cuda",  # the driver's; ~/.nv without it
    "PYTORCH_KERNEL_CACHE_PATH": "kernels",  # ~/.cache/torch/kernels
    "TORCHINDUCTOR_CACHE_DIR": "inductor",  # /tmp/torchinductor_USER
    "TRITON_HOME": "triton",  # ~/.triton
    "TORCH_HOME": "torch",  # ~/.cache/torch
    "TORCH_EXTENSIONS_DIR": "extensions",  # ~/.cache/torch_extensions
    "NUMBA_CACHE_DIR": "numba",
    "MPLCONFIGDIR": "matplotlib",  # ~/.config/matplotlib and ~/.cache/matplotlib
    "HF_XET_CACHE": "xet",  # ~/.cache/huggingface/xet
}
"""Variable → name of a folder, which its library makes when it first needs it."""

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

_ours: dict[str, str] = {}  # what was set here and not by the user


def silence(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set every variable of `SILENT` that the user has not set."""
    _put(SILENT, environment)


def keep_caches_in(folder: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Lead the caches of the model's libraries into `folder` instead of HOME. Call it before they are imported."""
    _put({name: str(folder.absolute() / below) for name, below in CACHES.items()}, environment)


def stay_offline(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep hub libraries from the network. Only for processes that run none of the user's code."""
    _put(_OFFLINE, environment)


def users_own(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment as the user had set it, for a program of the user's that follows this process."""
    return {name: value for name, value in environment.items() if _ours.get(name) != value}


def _put(values: Mapping[str, str], environment: MutableMapping[str, str]) -> None:
    for name, value in values.items():
        if name not in environment:
            environment[name] = value
            if environment is os.environ:
                _ours[name] = value
