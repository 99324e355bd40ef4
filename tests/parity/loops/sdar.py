"""The four-way choice of SDAR's `block_diffusion_generate` (2510.06303), without the way that its code cannot run."""

from __future__ import annotations

from parity.loops.canvas import Canvas, best, even


def generate(
    model,
    prompt,
    mask_id,
    *,
    gen_length,
    block_length,
    denoising_steps,
    temperature,
    top_k,
    top_p,
    remasking_strategy,
    confidence_threshold,
    eb_threshold,
    stopping_criteria_idx,
):
    """Blocks are counted from position 0; the model sees the canvas up to the end of the current one. A step commits its quota
    from the left, its quota by confidence, or every mask that is surer than the threshold if those are at least its quota.

    Deviations: tokens are the best ones (published, drawn at temperature 1); a quota is at most the masks that are left
    (published, it takes tokens of the prompt for the rest); `eb_threshold`, end tokens and filters are taken and not used.
    """
    length = -(-(len(prompt) + gen_length) // block_length) * block_length
    canvas = Canvas(lambda tokens: model(tokens[:end]), [*prompt, *[mask_id] * (length - len(prompt))], mask_id)
    for end in range((len(prompt) // block_length + 1) * block_length, length + 1, block_length):
        for quota in even(block_length, denoising_steps):
            masked = canvas.masked(end - block_length, end)
            if not masked:
                break
            p = canvas.predict()
            token = p.argmax(axis=-1)
            scores = {i: p[i, token[i]] for i in masked}
            sure = sum(c > confidence_threshold for c in scores.values())
            chosen = {
                "sequential": sorted(masked)[:quota],
                "low_confidence_static": best(scores, quota),
                "low_confidence_dynamic": best(scores, max(sure, quota)),
            }
            for i in chosen[remasking_strategy]:
                canvas.write(i, token[i])
    return canvas
