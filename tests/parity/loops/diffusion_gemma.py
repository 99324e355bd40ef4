"""The denoising loop of DiffusionGemma as transformers 5 has it (`generation_diffusion_gemma.py`), for one canvas of one row.

In our own words; random numbers come from outside: `uniform(step)` and `noise(step)`, one for each position.
"""

from __future__ import annotations

import torch


def accepted(entropy: torch.Tensor, bound: float) -> torch.Tensor:
    """Which positions are taken: the least uncertain ones, while the sum of the entropies before each is at most the bound."""
    rising, order = torch.sort(entropy)
    passes = torch.cumsum(rising, dim=0) - rising <= bound
    return torch.zeros_like(passes).scatter(0, order, passes)


def drawn(probabilities: torch.Tensor, uniforms) -> torch.Tensor:
    """A token for each position, where transformers calls `multinomial`."""
    sums = probabilities.double().cumsum(-1)
    return torch.stack([torch.searchsorted(row, u * row[-1], right=True) for row, u in zip(sums, uniforms, strict=True)])


def denoise(model, prompt, *, steps, t_min, t_max, bound, stability, confidence, noise, uniform):
    """Fills a canvas.

    Returns:
        Its tokens, the forwards, and what the canvas was in each of them.
    """
    canvas = torch.tensor(noise(0))
    history, seen = [], []
    for left in reversed(range(1, steps + 1)):
        step = steps - left
        seen.append(canvas.tolist())
        logits = model(torch.cat([torch.tensor(prompt, dtype=torch.long), canvas])[None])[0, len(prompt) :]
        temperature = t_min + (t_max - t_min) * (torch.tensor(left, dtype=torch.int32) / steps)
        processed = logits / temperature
        sampled = drawn(torch.softmax(processed, dim=-1), uniform(step))
        argmax = processed.argmax(dim=-1).tolist()
        entropy = torch.distributions.Categorical(logits=processed).entropy()
        canvas = torch.where(accepted(entropy, bound), sampled, torch.tensor(noise(step + 1)))
        before = history[len(history) - stability :] if stability else []
        is_stable = len(before) == stability and all(tokens == argmax for tokens in before)
        history.append(argmax)
        if is_stable and entropy.mean() < confidence:
            break
    return argmax, step + 1, seen
