"""The operations whose results are fixed to the bit.

NumPy has no fused multiply-add, and its `exp` and `log` differ between machines. Everything here is built from float
operations that IEEE 754 defines completely, so it gives the same bits everywhere.
"""

from __future__ import annotations

import struct

import numpy as np

F32 = np.float32
TILE = 4096
LANES = 256
FLOOR = F32(-60)

_LOG2_E = F32(1.4426950408889634)
_MAGIC = F32(12582912)  # 1.5 * 2^23: adding it rounds to an integer and leaves that integer in the low bits
_EXP2 = np.array([0x3AADDCD9, 0x3C1E7536, 0x3D635BA9, 0x3E75FCDE, 0x3F317215], dtype=np.uint32).view(F32)
_EXP_AT_FLOOR = np.array([0x142D70D3], dtype=np.uint32).view(F32)[0]


def fma(a, b, c):
    """`a * b + c` of float32 with one rounding.

    The product of two float32 is exact in float64. The sum with `c` may not be, and rounding it twice (to float64,
    then to float32) could go wrong at a tie. So the float64 sum is rounded to odd: where it is inexact, of its two
    neighbours the one with an odd last bit is taken. An odd number is never a tie, so the second rounding is right.
    """
    product = np.multiply(a, b, dtype=np.float64)
    c = np.asarray(c, dtype=np.float64)
    total = product + c
    # Knuth's two-sum: exactly what the addition lost.
    back = total - product
    lost = (product - (total - back)) + (c - back)
    is_even = total.view(np.int64) % 2 == 0
    odd_neighbour = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    return np.where((lost != 0) & is_even, odd_neighbour, total).astype(F32)


def exp32(d):
    """`exp(d)` of float32 for `d <= 0`, clamped at -60: exactly 1 at 0 and exactly 0 at -60."""
    d = np.maximum(np.asarray(d, dtype=F32), FLOOR)
    # exp(d) = 2^(k + f) with an integer k, the low bits of `shifted`, and f in [-1/2, 1/2].
    shifted = fma(d, _LOG2_E, _MAGIC)
    f = fma(d, _LOG2_E, -(shifted - _MAGIC))
    p = _EXP2[0]
    for coefficient in _EXP2[1:]:
        p = fma(p, f, coefficient)
    y = fma(p, f, F32(1))
    # Times 2^k: k is added to the exponent, in integers modulo 2^32.
    bits = y.view(np.uint32) + (shifted.view(np.uint32) << np.uint32(23))
    return bits.view(F32) - _EXP_AT_FLOOR


def tree(lanes):
    """Sum of the 256 accumulators: lane i takes lane i + n, for n = 128, 64, ..., 1."""
    n = LANES // 2
    while n > 0:
        lanes = lanes[:n] + lanes[n:]
        n //= 2
    return lanes[0]


def tile_sums(d):
    """Sums of `e = exp32(d)` and of `e * d` over a tile: element j goes to accumulator j mod 256, in rising j."""
    rows = -(-len(d) // LANES)
    padded = np.full(rows * LANES, FLOOR, dtype=F32)  # exp32(-60) is 0, so the padding adds nothing
    padded[: len(d)] = d
    mass = np.zeros(LANES, dtype=F32)
    moment = np.zeros(LANES, dtype=F32)
    for d_row in padded.reshape(rows, LANES):
        e = exp32(d_row)
        mass = mass + e
        moment = fma(e, d_row, moment)
    return tree(mass), tree(moment)


# From here on: float64, one number at a time. A Python float is a float64, and its operations are not fused.


def _bits(x: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", x))[0]


def _from_bits(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits % 2**64))[0]


_LN2 = _from_bits(0x3FE62E42FEFA39EF)
_LN2_HIGH = _from_bits(0x3FE62E42FEE00000)  # trailing zero bits, so that k * _LN2_HIGH is exact
_LN2_LOW = _from_bits(0x3DEA39EF35793C76)
_LOG2_E_64 = 1.4426950408889634
_MAGIC_64 = 6755399441055744.0  # 1.5 * 2^52
_HALF_PI = 1.5707963267948966
_SQRT2 = 1.4142135623730951
SMALLEST_NORMAL = _from_bits(1 << 52)


def exp64(d: float) -> float:
    """`exp(d)` for `d <= 0`; 0 below -700."""
    if d < -700:
        return 0.0
    shifted = d * _LOG2_E_64 + _MAGIC_64
    k = shifted - _MAGIC_64
    r = (d - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1.0
    for n in range(14, 0, -1):  # Taylor series by Horner
        p = 1.0 + p * (r / n)
    return _from_bits(_bits(p) + (_bits(shifted) << 52))


def _split(z: float) -> tuple[int, float]:
    """`k` and `y` with `z = 2^k * y` and `1 <= y < 2`, for a positive normal number."""
    return (_bits(z) >> 52) - 1023, _from_bits(_bits(z) & 0x000FFFFFFFFFFFFF | 0x3FF0000000000000)


def ln_1p(r: float) -> float:
    """`ln(1 + r)` for `r >= 0`, exact to rounding also for tiny r."""
    if r < 0.41:
        k, s = 0, r / (2.0 + r)
    else:
        k, y = _split(1.0 + r)
        if y > _SQRT2:
            k, y = k + 1, y * 0.5
        s = (y - 1.0) / (y + 1.0)
    # ln((1 + s) / (1 - s)) = 2 (s + s^3/3 + s^5/5 + ...)
    q = s * s
    p = 1.0 / 23.0
    for n in range(10, -1, -1):
        p = p * q + 1.0 / (2 * n + 1)
    return k * _LN2 + 2.0 * s * p


def ln(x: float) -> float:
    """Natural logarithm of a positive normal number."""
    k, y = _split(x)
    return k * _LN2 + ln_1p(y - 1.0)


def cos_half_pi(r: float) -> float:
    """`cos(r * pi / 2)` for `r` in [0, 1]; exactly 1 at 0 and exactly 0 at 1."""
    is_sine = r > 0.5
    x = (1.0 - r if is_sine else r) * _HALF_PI
    q = x * x
    p = 1.0
    for i in range(9, 0, -1):  # Taylor series of the sine or of the cosine by Horner
        n = 2 * i + is_sine
        p = 1.0 - p * (q / (n * (n - 1.0)))
    return x * p if is_sine else p
