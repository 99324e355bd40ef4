"""PC-Sampler: what a proposal tells beyond how frequent its token is anywhere, less the farther it stands."""

from __future__ import annotations

from reference.arithmetic import exp64, ln


def score(proposal, counts: list[int], distance: int, decay: float, cap: float) -> float:
    """The score of a position.

    Args:
        proposal: what is proposed there.
        counts: how often each token occurs in some text; one that never does counts as if it did once.
        distance: positions from where the block begins.
        decay: of the weight, for each of them.
        cap: the most that counts, in nats.
    """
    frequency = max(counts[proposal.token], 1) / sum(counts)
    information = -proposal.probability * ln(frequency + 1e-9)
    return exp64(-(decay * distance)) * min(information, cap)


def begin(row) -> int:
    """Where distances are counted from: where the block begins, or with no blocks the answer."""
    if row.config.block_length is None:
        return row.origin
    if row.config.add_block_at is not None:
        return next(block.start for block in row.blocks if row.masked(block))
    return row.window.start
