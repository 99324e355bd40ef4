"""The mask-prediction step for any engine: proposals and statistics of rows of logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dllm_fast import _core
from dllm_fast.arrays import integer_array
from dllm_fast.tensors import is_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from dllm_fast.ops.mask_predict import TensorPrediction

    Numbers = float | Sequence[float] | NDArray[Any] | torch.Tensor
    Counts = int | Sequence[int] | NDArray[Any] | torch.Tensor
    Integers = Sequence[int] | NDArray[np.int64] | torch.Tensor


def mask_predict(
    logits: torch.Tensor | NDArray[Any],
    *,
    temperature: Numbers = 0.0,
    top_k: Counts | None = None,
    top_p: Numbers | None = None,
    min_p: Numbers | None = None,
    softcap: float | None = None,
    suppress: Integers | None = (),
    current: Integers | None = None,
    seed: int | Sequence[int] = 0,
    request: int | Sequence[int] = 0,
    positions: Integers | None = None,
    step: int | Sequence[int] = 0,
) -> _core.Prediction | TensorPrediction:
    """Predicts the token of each row of logits, with the statistics that commit rules use, in one pass.

    Every result is the same bits on every machine, for any number of threads, and does not depend on the other rows.

    Args:
        logits: `[N, V]`, float32, float16 or bfloat16, a torch tensor or a NumPy array, contiguous; read in place.
        temperature: of the draw; 0 takes the most probable id, the lowest on a tie. One for all rows or `[N]`, one for each.
        top_k, top_p, min_p: cuts for the draw, in this order after the temperature; ties at a cut go to lower ids. One for all
            rows or `[N]`; a row of an array is not cut by a `top_k` of V or more, a `top_p` of 1, a `min_p` of 0. What is given
            for each row is read on the host.
        softcap: bound on the logits, from 0.001 to 1,000: each becomes `softcap * tanh(logit / softcap)` (Gemma,
            2408.00118), rounded to the dtype of the logits, before anything else.
        suppress: ids that count as -inf everywhere. Put the mask id here.
        current: `[N]` ids whose probability is wanted as well.
        seed: one for all rows or one for each, from 0 below 2^64.
        request: index of the sample for its prompt, one or one for each row.
        positions: `[N]` positions in the canvas; default 0, 1, ..., N - 1.
        step: step of the sequence, one or one for each row. A draw is a function of seed, request, position and step.

    Returns:
        Arrays of length N: `token` (int64), `probability` (of that token), `top1`, `top2` (the two largest), `entropy` (nats),
        `logsumexp`, and `current` where it was asked for (float64). Probabilities are those of the softmax at temperature 1
        before top-k, top-p and min-p, whatever the draw used. For logits on a CUDA device these are tensors there, with the
        same bits, and nothing waits for them; `cpu()` does, and is where a NaN is reported.

    Raises:
        InvalidTypeError: logits of another dtype (float64: pass `logits.float()`) or kind.
        InvalidValueError: a bad shape, a setting out of range, ids outside the vocabulary, NaN (names row and id), or a
            row that is -inf everywhere.
    """
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    settings["softcap"] = softcap
    settings["suppress"] = integer_array(() if suppress is None else suppress, "suppress")
    streams: dict[str, Any] = {"seed": seed, "request": request, "step": step}
    tensor: Any = logits if is_tensor(logits) else None
    if tensor is not None:
        from dllm_fast.ops import mask_predict as device  # late: only who has a tensor has torch

        if device.takes(tensor):
            return device.mask_predict(tensor, **settings, **streams, current=current, positions=positions)
    prediction = _core.mask_predict(
        logits,
        **settings,
        **streams,
        current=None if current is None else integer_array(current, "current"),
        positions=None if positions is None else integer_array(positions, "positions"),
    )
    if tensor is not None and tensor.device.type == "cuda":
        return device.from_host(prediction, tensor.device)
    return prediction


def schedule(name: str, masks: int, steps: int, *, eps: float = 1e-3, as_published: bool = False) -> NDArray[np.int64]:
    """Masks that each of `steps` steps commits, an int64 array that adds up to `masks`.

    `even`: equal counts, the remainder first (LLaDA, 2502.09992). `linear`, `cosine`: rounded expectations of the noise
    schedules 1 - t and 1 - cos(pi/2 (1 - t)) (MDLM, 2406.07524; MD4, 2406.04329), in float64, halves to the even number:
    `linear` of 4 masks in 3 steps is [1, 2, 1]. `dream`: truncated, times from 1 to `eps`, the last step takes the rest
    (Dream, 2508.15487). `maskgit`: masks left follow a cosine, at least one until the last step (2202.04200).

    With `as_published` the probabilities of `linear` and `cosine` are computed in float32, as in dllm's code, where the 1.5
    of that example is 1.4999999: [1, 1, 2]. The other schedules are the same either way.

    Raises:
        InvalidValueError: an unknown name, negative masks, no steps, or `eps` outside (0, 1).
        InvalidTypeError: an argument of another type.
    """
    import numpy as np  # late: keeps `import dllm_fast` quick

    return np.asarray(_core.schedule(name, masks, steps, eps, as_published), dtype=np.int64)
