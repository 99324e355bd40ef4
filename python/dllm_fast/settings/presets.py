"""Published algorithms as named settings."""

from __future__ import annotations

from dllm_fast.settings.config import SamplerConfig

_PRESETS = {
    # LLaDA, Nie et al., 2502.09992: the whole canvas, or blocks ("semi-autoregressive"), or random order.
    "llada": SamplerConfig(order="sampled-confidence"),
    "llada-semi-ar": SamplerConfig(order="sampled-confidence", block_length=32),
    "llada-random": SamplerConfig(order="random"),
    # Dream, Ye et al., 2508.15487. Its models also need shift=True, which is theirs to say.
    "dream-origin": SamplerConfig(order="ancestral", schedule="dream"),
    "dream-maskgit-plus": SamplerConfig(order="sampled-confidence", schedule="dream"),
    "dream-entropy": SamplerConfig(order="entropy", schedule="dream"),
    "dream-margin": SamplerConfig(order="margin", schedule="dream"),
    # MaskGIT, Chang et al., 2202.04200.
    "maskgit": SamplerConfig(order="sampled-confidence", schedule="maskgit"),
    # The reverse process itself, so at temperature 1: MDLM, Sahoo et al., 2406.07524; first-hitting, Zheng et al., 2409.02908.
    "mdlm": SamplerConfig(order="ancestral", schedule="linear", temperature=1.0),
    "first-hitting": SamplerConfig(order="random", schedule="first-hitting", temperature=1.0),
    # Fast-dLLM, Wu et al., 2505.22618.
    "fast-dllm": SamplerConfig(order="sampled-confidence", threshold=0.9, block_length=32),
    "fast-dllm-factor": SamplerConfig(order="sampled-confidence", factor=1.0, block_length=32),
    # LLaDA2.1, 2602.08676: its quality and speed modes, and the thresholds that its own `generate` begins with.
    # "Speed" replaces a token whenever another one is better: there 0 is always, where Diffusers has it for never.
    "llada2.1-quality": SamplerConfig(order="sampled-confidence", threshold=0.7, edit_threshold=0.5, block_length=32),
    "llada2.1-speed": SamplerConfig(order="sampled-confidence", threshold=0.5, edit_threshold=0.0, block_length=32),
    "llada2.1-conservative": SamplerConfig(order="sampled-confidence", threshold=0.95, edit_threshold=0.9, block_length=32),
    # EB-Sampler, Ben-Hamu et al., 2505.24857.
    "entropy-bound": SamplerConfig(order="entropy", entropy_bound=0.1),
    "left-to-right": SamplerConfig(order="left-to-right"),
}


def presets() -> dict[str, SamplerConfig]:
    """Name to settings of every preset; the dictionary is a copy, the settings are frozen."""
    return dict(_PRESETS)
