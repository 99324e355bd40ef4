"""Token editing: LLaDA2.1 (2602.08676), as `generate` beside its weights has it, for one prompt."""

from __future__ import annotations

from parity.loops.canvas import Canvas, best


def generate(
    model,
    prompt,
    *,
    mask,
    gen_length,
    block_length,
    threshold,
    editing_threshold,
    max_post_steps=16,
    num_to_transfer=1,
    eos=None,
):
    """Blocks are counted from the start of the prompt, whose last one may end inside a block, and the canvas is filled up to
    a whole block. The model sees a canvas up to the end of the current block. A forward fills every mask of the block that is
    surer than `threshold`, or the `num_to_transfer` surest if there are fewer, and replaces every token of the block behind
    the prompt that it would write differently, and surely enough for `editing_threshold`. A block whose masks are gone is
    asked again until nothing is replaced, at most `max_post_steps` times. An end token in a finished block is the last block's.

    Deviations: `temperature`, `top_k` and `top_p` are left out, since what is compared is greedy; the number of `steps` is
    left out, which the published loop computes and does not use; a batch is one prompt after the other (published, a row is
    edited as long as another has masks, and the first that ends stops all).
    """
    length = -(-(len(prompt) + gen_length) // block_length) * block_length
    # The model is asked with `end` as it stands in the loop below.
    canvas = Canvas(lambda tokens: model(tokens[:end]), [*prompt, *[mask] * (length - len(prompt))], mask)
    for end in range((len(prompt) // block_length + 1) * block_length, length + 1, block_length):
        start = end - block_length
        post_steps = 0
        while True:
            masked = canvas.masked(start, end)
            if not masked:
                post_steps += 1
                if post_steps > max_post_steps:
                    break
            p = canvas.predict()
            token = p.argmax(axis=-1)
            scores = {i: p[i, token[i]] for i in masked}
            sure = sum(c > threshold for c in scores.values())
            written = [i for i in range(max(start, len(prompt)), end) if i not in masked]
            better = [i for i in written if token[i] != canvas.tokens[i] and p[i, token[i]] > editing_threshold]
            for i in best(scores, sure if sure >= num_to_transfer else num_to_transfer):
                canvas.write(i, token[i])
            for i in better:
                canvas.rewrite(i, token[i])
            if not masked and not better:
                break
        if eos is not None and eos in canvas.tokens[len(prompt) : end]:
            break
    return canvas
