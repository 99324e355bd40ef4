"""Models that two samplers can be compared on without luck: confidences are tied to the last bit, or clearly apart.

Sums are rounded differently in torch, in NumPy and in our core, so two positions whose confidences differ by 1e-7 may be
ranked either way, and no sampler is wrong. Tables of logits avoid that by construction. All their rows come from a few
templates, whose confidences, margins and entropies are compared when the table is made: they are equal or at least a
hundred roundings apart. A row is a template with all logits raised by a multiple of 1/4 and, where the vocabulary is a power
of two, its even ids exchanged by xor. Logits are multiples of 1/4, so raising them is exact; the core adds up a row by a
binary tree over the bits of the ids, and the loops add up sorted terms, so neither notices the exchange. Rows of one template
have the same statistics to the last bit: these are the planted ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from parity.loops.canvas import entropy, softmax
from toys import SmallTransformer

APART = 1e-5


class Model:
    """Logits of canvases: of one `[L]` by `alone`, as the loops want it, of a batch `[B, L]` by a call, as `sample` does."""

    vocabulary: int

    def alone(self, tokens) -> torch.Tensor:
        raise NotImplementedError

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.alone(row.numpy()) for row in ids])


class Table(Model):
    """Logits that are a pure function of the whole canvas and the position; see the module.

    Args:
        rng: what all is made from.
        vocabulary: number of ids, the last of which is the mask.
        templates: how many; with at least as many as positions, no two positions of a canvas share one, and nothing ties.
        excluded: ids that the sampler suppresses: statistics are compared without them.
        scale: standard deviation of logits.
        ahead: how much a sure template's best word is ahead of the others.
        dtype: of the logits.
        softmax_decides: torch's softmax in that dtype will be compared with: keep templates on which it is correctly
            rounded, and exchange nothing, since its sums would notice.
        block: with a number, logits depend on the canvas up to the end of their block only (block-causal).
        mask_logit: the logit of the mask, which is any number without.
    """

    def __init__(
        self,
        rng,
        vocabulary,
        templates,
        excluded=(),
        *,
        scale=2.0,
        ahead=0.0,
        dtype=torch.float32,
        softmax_decides=False,
        block=None,
        mask_logit=None,
    ):
        self.vocabulary, self.mask, self.dtype, self.block = vocabulary, vocabulary - 1, dtype, block
        # The tree has 256 leaves, and the excluded ids must keep their places.
        exchange = not softmax_decides and vocabulary in {4, 8, 16, 32, 64, 128, 256} and all(i % 2 for i in excluded)
        self.exchanged = vocabulary if exchange else 1
        self.seed = int(rng.integers(2**32))
        rows = _rows_on_a_grid(rng, vocabulary, {self.mask, *excluded}, scale, ahead)
        rows = (torch.from_numpy(row).to(dtype).double().numpy() for row in rows)
        if softmax_decides:
            rows = (row for row in rows if _is_rounded(row, self.mask, dtype))
        self.templates = _templates(rows, templates, {self.mask, *excluded})
        # Where two ids share the lead, the core sums up the others around the lower one: an exchange would show.
        leads = np.sort(softmax(torch.from_numpy(self.templates), [self.mask, *excluded]))[:, -2:]
        self.leads_share = leads[:, 0] == leads[:, 1]
        if mask_logit is not None:
            self.templates[:, self.mask] = mask_logit

    def alone(self, tokens) -> torch.Tensor:
        tokens = np.asarray(tokens)
        block = self.block or len(tokens)
        blocks = [
            self._rows(tokens[: start + block], min(block, len(tokens) - start)) for start in range(0, len(tokens), block)
        ]
        return torch.from_numpy(np.concatenate(blocks)).to(self.dtype)

    def _rows(self, seen, count: int) -> np.ndarray:
        """The last `count` rows, given the tokens that they see."""
        rng = np.random.default_rng([self.seed, len(seen), *seen.tolist()])
        if count <= len(self.templates):
            template = rng.permutation(len(self.templates))[:count]
        else:
            template = rng.integers(len(self.templates), size=count)
        ids = np.tile(np.arange(self.vocabulary), (count, 1))
        ids[:, ::2] ^= np.where(self.leads_share[template, None], 0, rng.integers(0, self.exchanged, (count, 1)) & ~1)
        raised = rng.integers(-16, 17, (count, 1)) / 4
        return (np.take_along_axis(self.templates[template], ids, axis=1) + raised).astype(np.float32)

    def confidences(self) -> np.ndarray:
        """Largest probabilities of the templates, falling."""
        return -np.sort(-softmax(torch.from_numpy(self.templates), [self.mask]).max(axis=-1))


def _rows_on_a_grid(rng, vocabulary, excluded, scale, ahead):
    """Random rows of logits, multiples of 1/4, without end."""
    allowed = [i for i in range(vocabulary) if i not in excluded]
    while True:
        row = rng.normal(0, scale, vocabulary)
        row[rng.choice(allowed)] += ahead * rng.uniform(1, 1.2)
        yield np.round(row * 4) / 4


def _templates(rows, count, excluded) -> np.ndarray:
    """The first `count` rows whose statistics are equal to those of the rows before them, or clearly apart."""
    kept, seen = [], []
    for row in rows:
        p = softmax(torch.from_numpy(row[None]), excluded)
        top = np.sort(p[0])
        statistics = (top[-1], top[-1] - top[-2], entropy(p)[0])
        if all(_are_apart(statistics, other) for other in seen):
            kept.append(row)
            seen.append(statistics)
        if len(kept) == count:
            return np.stack(kept)
    raise AssertionError("rows have no end")


def _are_apart(a, b) -> bool:
    """Do two rows differ in confidence, and in margin and entropy if at all, by much more than any rounding?

    Confidences are rounded relative to their distance from 0 and 1; the margin of a sure row relative to its distance from 1.
    """
    (c, d), (m, n), (g, h) = zip(a, b, strict=True)
    tiny = 1e-12
    return (
        abs(c - d) > APART * max(c * (1 - c), d * (1 - d), tiny)
        and (m == n or abs(m - n) > APART * max(min(c, 1 - m), min(d, 1 - n), tiny))
        and (g == h or abs(g - h) > APART * max(g, h, tiny))
    )


def _is_rounded(row, mask, dtype) -> bool:
    """Are the two largest of torch's probabilities those of the real softmax, rounded? They may miss by a bit."""
    exact, torchs = (np.sort(softmax(torch.from_numpy(row[None]).to(dtype), [mask], d)[0])[-2:] for d in (None, dtype))
    return bool((torch.from_numpy(exact).to(dtype) == torch.from_numpy(torchs).to(dtype)).all())


class Transformer(Model):
    """A small bidirectional transformer with random weights; two of its confidences are never close by accident."""

    def __init__(self, vocabulary: int, seed: int, length: int):
        self.vocabulary, self.mask = vocabulary, vocabulary - 1
        self.network = SmallTransformer(vocabulary, longest=length, seed=seed).eval()

    def alone(self, tokens) -> torch.Tensor:
        return torch.from_numpy(self.network.alone(tokens))


VOCABULARIES = (4, 5, 8, 16, 33, 64, 256, 300, 5000)
kinds = st.sampled_from(["ties", "no ties", "transformer"])


@dataclass
class Case:
    """A model and prompts for it; the mask is the model's last id."""

    model: Model
    prompts: list[list[int]]
    seeds: list[int]

    @property
    def mask(self) -> int:
        return self.model.mask


@st.composite
def cases(
    draw, length: int, *, longest_prompt: int = 6, rows: int = 3, excluded=(), holes: bool = False, vocabularies=VOCABULARIES
) -> Case:
    """A model that can take `length` new tokens after any prompt, and one to `rows` prompts of any lengths.

    With `holes` the prompts are canvases of at most that length with masks anywhere, at least one.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vocabulary = draw(st.sampled_from([v for v in vocabularies if v > max(excluded, default=0) + 3]))
    longest = length + longest_prompt
    model = draw_model(draw, rng, vocabulary, longest, excluded)
    tokens = st.integers(0, model.mask - 1)
    prompts = []
    for _ in range(draw(st.integers(1, rows))):
        if holes:
            prompt = draw(st.lists(tokens, min_size=length, max_size=length))
            masked = draw(st.lists(st.booleans(), min_size=length, max_size=length))
            prompts.append([model.mask if m else t for t, m in zip(prompt, masked, strict=True)])
            if not any(masked):
                prompts[-1][int(rng.integers(length))] = model.mask
        else:
            prompts.append(draw(st.lists(tokens, min_size=1, max_size=longest_prompt)))
    seeds = [draw(st.integers(0, 2**64 - 1)) for _ in prompts]
    return Case(model, prompts, seeds)


def draw_model(draw, rng, vocabulary: int, longest: int, excluded=()) -> Model:
    """A table with planted ties, a table without any, or a transformer."""
    kind = draw(kinds)
    if kind == "transformer":
        return Transformer(min(vocabulary, 300), int(rng.integers(2**32)), longest)
    few = draw(st.integers(1, 4))
    # Four ids make few rows that differ; more spread makes more of them.
    scale = 4.0 if vocabulary < 10 else draw(st.sampled_from([0.5, 2.0, 4.0]))
    return Table(rng, vocabulary, few if kind == "ties" else longest, excluded, scale=scale)
