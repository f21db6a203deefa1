"""Exponents of cost: least squares on logarithms."""

import math

import numpy as np


def exponent(x, y):
    """y ~ x^value: the value, its standard error (None from two points), and that of the last step alone.

    >>> exponent([1, 10, 100], [3, 300, 30_000])["value"].__round__(9)
    2.0
    """
    x, y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    dx = x - x.mean()
    value = (dx @ y) / (dx @ dx)
    rest = y - y.mean() - value * dx
    error = math.sqrt(rest @ rest / (len(x) - 2) / (dx @ dx)) if len(x) > 2 else None
    return {"value": float(value), "error": error, "last": float(last)}


def relative_least_squares(columns, y):
    """Coefficients, none negative, of y ~ sum of coefficient times column, by relative errors: terms that come out negative are left out and the others fitted again.

    >>> found = relative_least_squares({"each": [1, 2, 3], "once": [1, 1, 1], "none": [1, 4, 9]}, [12, 22, 32])
    >>> {name: round(value, 6) for name, value in found.items()}
    {'each': 10.0, 'once': 2.0, 'none': 0.0}
    """
    y = np.asarray(y, float)
    names = [name for name in columns if np.any(columns[name])]
    while names:
        a = np.stack([np.asarray(columns[name], float) for name in names], axis=1) / y[:, None]
        scale = np.abs(a).max(axis=0)
        found = np.linalg.lstsq(a / scale, np.ones(len(y)), rcond=None)[0] / scale
        if (found >= 0).all():
            return {name: 0.0 for name in columns} | dict(zip(names, map(float, found)))
        names.pop(int(np.argmin(found * scale)))
    return {name: 0.0 for name in columns}
