"""Elementary functions as plain arithmetic, so that compilers turn loops over them into vector instructions.

Written for one precision each; a generated module compiles the pair it needs. Constants are typed, for otherwise
numba would carry everything to float64.
"""

import math

import numpy as np

from bluesky_bayes.kernels.plain import in_order, jit

F4 = np.float32
I4 = np.int32
I8 = np.int64
ROUNDER_SINGLE = F4(12582912.0 + 127.0)
ROUNDER_DOUBLE = 6755399441055744.0 + 1023.0
"""Added to a number, they leave the nearest whole number, with the exponent's bias, in its last bits."""


@in_order
def exp_single(x):
    """Exponential, float32, 2 units in the last place, by the polynomial of degree 5 that comes nearest (1 at 0).

    x is clamped to [-60, 88]; its range is reduced as in Cephes.
    """
    x = min(max(x, F4(-60.0)), F4(88.0))
    n = F4(x * F4(1.4426950408889634) + ROUNDER_SINGLE)
    whole = n - ROUNDER_SINGLE
    r = x - whole * F4(0.693359375)
    r = r + whole * F4(2.12194440e-4)
    p = F4(8.2902405e-3)
    p = p * r + F4(4.1898157e-2)
    p = p * r + F4(1.6667639e-1)
    p = p * r + F4(4.9999148e-1)
    p = p * r + F4(9.9999970e-1)
    p = p * r + F4(1.0)
    return p * I4(n.view(np.int32) << I4(23)).view(np.float32)


@in_order
def exp_double(x):
    """Exponential, float64, by Taylor's series after range reduction; x is clamped to [-700, 700]."""
    x = min(max(x, -700.0), 700.0)
    n = np.float64(x * 1.4426950408889634 + ROUNDER_DOUBLE)
    whole = n - ROUNDER_DOUBLE
    r = x - whole * 0.693145751953125
    r = r - whole * 1.42860682030941723212e-6
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * (r * r) + r
    p = p + 1.0
    return p * I8(n.view(np.int64) << I8(52)).view(np.float64)


@jit
def log_single(x):
    """Natural logarithm of a positive normal number, float32."""
    bits = F4(x).view(np.int32)
    e = I4(I4(bits - I4(0x3F3504F3)) >> I4(23))
    m = I4(bits - I4(e << I4(23))).view(np.float32)
    f = m - F4(1.0)
    s = f / (F4(2.0) + f)
    z = s * s
    p = F4(0.28498787) * z + F4(0.40000972)
    p = p * z + F4(0.66666663)
    return F4(e) * F4(0.69314718) + (F4(2.0) * s + s * (p * z))


@jit
def log_double(x):
    """Natural logarithm of a positive normal number, float64."""
    bits = np.float64(x).view(np.int64)
    e = I4(I4(I4(bits >> I8(32)) - I4(0x3FE6A09E)) >> I4(20))
    m = I8(bits - I8(I8(e) << I8(52))).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = 1.0 / 21.0
    p = p * z + 1.0 / 19.0
    p = p * z + 1.0 / 17.0
    p = p * z + 1.0 / 15.0
    p = p * z + 1.0 / 13.0
    p = p * z + 1.0 / 11.0
    p = p * z + 1.0 / 9.0
    p = p * z + 1.0 / 7.0
    p = p * z + 1.0 / 5.0
    p = p * z + 1.0 / 3.0
    return float(e) * 0.6931471805599453 + 2.0 * (s + s * (p * z))


@jit
def cos_turns(u):
    """Cosine of `u` full turns, 0 <= u <= 1, float32: 2 sin(pi (u - 1/2))^2 - 1."""
    t = (u - F4(0.5)) * F4(math.pi)
    z = t * t
    p = F4(1.0 / 6227020800.0)
    p = p * z - F4(1.0 / 39916800.0)
    p = p * z + F4(1.0 / 362880.0)
    p = p * z - F4(1.0 / 5040.0)
    p = p * z + F4(1.0 / 120.0)
    p = p * z - F4(1.0 / 6.0)
    s = t + t * (p * z)
    return F4(2.0) * s * s - F4(1.0)
