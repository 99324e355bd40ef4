"""Philox4x32-10 (Salmon et al., SC 2011): every random number is a function of where and what for it is used."""

from __future__ import annotations

TOKEN, ORDER, COMMIT, TIME, NOISE, REMASK, GUMBEL = range(7)
_WORD = 2**32


def philox4x32(counter, key):
    """Ten rounds: four words of randomness from a counter of four words and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, _WORD)
        high1, low1 = divmod(0xCD9E8D57 * c2, _WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % _WORD, (k1 + 0xBB67AE85) % _WORD
    return c0, c1, c2, c3


def bits53(seed: int, request: int, position: int, step: int, draw: int) -> int:
    """53 random bits: the first two words, the low one first, shifted right by 11."""
    low, high, _, _ = philox4x32((request, position, step, draw), (seed % _WORD, seed // _WORD))
    return (high * _WORD + low) >> 11


def uniform(seed: int, request: int, position: int, step: int, draw: int) -> float:
    """A uniform in [0, 1), a multiple of 2^-53."""
    return bits53(seed, request, position, step, draw) * 2.0**-53


def open_uniform(seed: int, request: int, position: int, step: int, draw: int) -> float:
    """A uniform in (0, 1): moved off 0 by half a unit."""
    return (bits53(seed, request, position, step, draw) + 0.5) * 2.0**-53
