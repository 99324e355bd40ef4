"""Which devices the kernels run on, and what a device lacks."""

from __future__ import annotations

from dllm_fast.errors import KernelError
from dllm_fast.kernels import cubins
from dllm_fast.kernels.build import OLDEST_CAPABILITY
from dllm_fast.kernels.files import sources
from dllm_fast.kernels.nvrtc import nvrtc

# A cubin runs on its own generation, on devices that are not older than it; these generations have one for all of theirs.
_WHOLE_GENERATIONS = {8: "sm_80", 12: "sm_120"}
# Jetson Orin: systems on a chip do not run the cubins of cards.
_ALONE = {(8, 7): "sm_87"}


def architecture(capability: tuple[int, int]) -> str:
    """What to compile for, for a device of a compute capability."""
    major, minor = capability
    suffix = "a" if major in (9, 10) else ""
    return _ALONE.get(capability) or _WHOLE_GENERATIONS.get(major, f"sm_{major}{minor}{suffix}")


def problem(device: int | None = None) -> tuple[str, str] | None:
    """Why kernels cannot be used on a device (by default the current one), and the remedy; None if they can."""
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA", "install the CUDA build: pip install torch, on Linux"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device", "run where nvidia-smi shows a GPU; sampling works on the CPU meanwhile"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < OLDEST_CAPABILITY:
        return f"the kernels need compute capability 8.0, this device has {major}.{minor}", "use an A100 or newer"
    if cupy_version() is None:
        extra = "cuda12" if torch.version.cuda.startswith("12") else "cuda13"
        return "CuPy is not installed", f"pip install 'dllm-fast[{extra}]'"
    if not all(cubins.is_shipped(source, architecture((major, minor))) for source in sources()):
        try:
            nvrtc()
        except KernelError as error:
            why, _, fix = str(error).partition("; ")
            return why, fix
    return None


def cupy_version() -> str | None:
    """Version of CuPy, without importing it; None if there is none."""
    import importlib.metadata  # late: `dllm-fast --help` need not wait for it

    for distribution in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
