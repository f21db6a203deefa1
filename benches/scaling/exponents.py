"""Exponents of cost: least squares on logarithms."""

import math

import numpy as np


def exponent(x, y):
    """y ~ x^value: the value, its standard error (None from two points), and that of the last step alone."""
    x, y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    dx = x - x.mean()
    value = (dx @ y) / (dx @ dx)
    rest = y - y.mean() - value * dx
    error = math.sqrt(rest @ rest / (len(x) - 2) / (dx @ dx)) if len(x) > 2 else None
    return {"value": float(value), "error": error, "last": float(last)}


def relative_least_squares(columns, y):
    """Coefficients, none negative, of y ~ sum of coefficient times column, by relative errors: terms that come out negative are left out and the others fitted again."""
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
