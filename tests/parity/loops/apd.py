"""APD, 2506.00413: a left-to-right draft, and another model that reads it causally."""

from __future__ import annotations

import numpy as np

from parity.loops.canvas import Canvas


def generate(
    model,
    verifier,
    prompt,
    *,
    mask,
    gen_length,
    weight,
    max_lookahead=None,
    shift=False,
    temperature=0.0,
    gumbel=None,
    is_intended=False,
):
    """Every forward drafts all masks up to `max_lookahead` behind the first; the prefix is written in which the draft is the
    argmax of a mixture of both models' logits, the first in any case.

    Args:
        gumbel: noise `[n, V]` for some positions.
        is_intended: what the paper says: both draws are by the same noise, at the temperature. Published is that the draft's
            logits are divided by the temperature and its noise multiplied by it, too; and that the mixture is taken at
            temperature 0, without noise.

    Deviations: the mask is never drafted. Both models are asked about all tokens, where the published loop keeps keys, values
    (exact ones of the verifier; those of the model of `kv_window` tokens back are computed anew).
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    current, end = len(prompt), len(prompt) + gen_length
    while current < end:
        right = end if max_lookahead is None else min(current + max_lookahead, end)
        places = np.arange(current, right)
        logits = model(canvas.tokens[:right]).numpy()
        lines = np.maximum(places - 1, 0) if shift else places
        own = logits[lines]
        drafting = own.copy()
        drafting[:, mask] = -np.inf
        canvas.forwards += 1
        noise = None if temperature == 0 else gumbel(places)
        drafted = argmax(drafting, temperature, noise, is_intended=is_intended)
        shown = canvas.tokens[:right].copy()
        shown[places] = drafted
        accepted = np.ones(len(places), dtype=bool)
        if weight is not None:
            others = verifier(shown).numpy()[places - 1]
            mixed = np.float32(weight) * own + np.float32(1 - weight) * others
            mixed[:, mask] = -np.inf
            accepted = drafted == argmax(mixed, temperature if is_intended else 0.0, noise, is_intended=is_intended)
            accepted[0] = True
            canvas.forwards += 1
        count = int(np.cumprod(accepted).sum())
        for place, token in zip(places[:count], drafted[:count], strict=True):
            canvas.write(place, token)
        current += count
    return canvas


def argmax(logits, temperature, noise, *, is_intended):
    """What a draw by Gumbel noise takes."""
    if temperature == 0:
        return logits.argmax(axis=-1)
    logits = logits.astype(np.float64) / temperature
    return (logits + (noise if is_intended else temperature * noise)).argmax(axis=-1)
