"""Regression with centers by other means: the Falkon algorithm in torch, and scikit-learn's Nystroem features with Ridge."""

import time

import numpy as np

from chunks import Torch, fastest
from common import Regression, best, seconds, serve

MOST_ITERATIONS = 320


class Falkon:
    """Rudi, Carratino and Rosasco (2017), algorithm 1: conjugate gradients on
    A^-T (T^-T Knm^T Knm T^-1 / n + lambda I) A^-1, with T^T T = Kmm and A^T A = T T^T / m + lambda I.

    Both Cholesky factors and all m-vectors are f64, kernel entries and their products with vectors f32 or f64 (`size` bytes); each block's share of a sum over rows is added in f64.
    `stored`: all of Knm is kept in memory instead of made again in each iteration.
    """

    def __init__(self, x, y, z, sigma, ridge, threads, size, stored):
        self.library = library = Torch()
        self.torch = torch = library.torch
        self.scale, self.ridge, self.size, self.stored = 0.5 / sigma**2, ridge, size, stored
        self.x, self.y, self.z = library.own(x, size), library.own(y, size), np.asarray(z, "f8")
        (self.n, self.m) = len(x), len(z)
        v, self.blocks = torch.ones(self.m, dtype=torch.float64), None
        # How blocks are cut is chosen on some rows first; that time is not counted.
        self.blocks = fastest(library, self.x, self.z, self.scale, threads, lambda blocks: self.normal(v, blocks), size)
        self.kept = torch.empty(self.n if stored else 0, self.m, dtype=library.float[size])

    def normal(self, v, blocks=None, target=None, fill=False):
        """Knm^T (Knm v), or Knm^T y."""
        torch, blocks = self.torch, blocks or self.blocks
        own = v.to(self.kind) if v is not None else None
        sums = torch.zeros(blocks.outer, self.m, dtype=torch.float64)

        def add(worker, start, end, k):
            if fill:
                self.kept[start:end] = k
            w = target[start:end] if target is not None else torch.mv(k, own)
            sums[worker] += torch.mv(k.T, w)

        if self.stored and not fill and blocks is self.blocks:
            blocks.library.inner(blocks.outer * blocks.inner)
            for start in range(0, self.n, 4096):
                end = min(start + 4096, self.n)
                add(0, start, end, self.kept[start:end])
        else:
            blocks.each(add)
        return sums.sum(0)

    @property
    def kind(self):
        return self.library.float[self.size]

    def factor(self):
        torch = self.torch
        z = torch.as_tensor(self.z)
        norms = (z**2).sum(1)
        self.kmm = kmm = torch.exp(-self.scale * (norms[:, None] + norms - 2 * z @ z.T).clamp_(min=0)).fill_diagonal_(1)
        jitter, info = 1e-15 * self.m, 1
        while info != 0:
            shifted = kmm.clone()
            shifted.diagonal().add_(jitter)
            lower, info = torch.linalg.cholesky_ex(shifted)
            self.jitter, jitter = jitter, 10 * jitter
        self.t = lower.T
        inner = lower.T @ lower / self.m
        inner.diagonal().add_(self.ridge)
        self.a = torch.linalg.cholesky(inner).T

    def solve(self, iterations):
        torch = self.torch
        self.factor()
        back = lambda f, v: torch.linalg.solve_triangular(f, v[:, None], upper=True)[:, 0]
        forth = lambda f, v: torch.linalg.solve_triangular(f.T, v[:, None], upper=False)[:, 0]

        def apply(u):
            w = back(self.a, u)
            return forth(self.a, forth(self.t, self.normal(back(self.t, w)) / self.n) + self.ridge * w)

        r = forth(self.a, forth(self.t, self.normal(None, target=self.y, fill=self.stored) / self.n))
        u, p, square = torch.zeros_like(r), r.clone(), r @ r
        for _ in range(iterations):
            q = apply(p)
            step = square / (p @ q)
            u += step * p
            r -= step * q
            last, square = square, r @ r
            p = r + (square / last) * p
        self.alpha = back(self.t, back(self.a, u))

    def predict(self, x):
        z = self.torch.as_tensor(self.z)
        x = self.torch.as_tensor(np.asarray(x, "f8"))
        return self.torch.exp(-self.scale * self.torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist") ** 2).mv(self.alpha).numpy()

    def residual(self):
        """Of the normal equations, relative, by the entries that were used."""
        right = self.normal(None, target=self.y)
        left = self.normal(self.alpha) + self.n * self.ridge * self.kmm.mv(self.alpha)
        return float((right - left).norm() / right.norm())


def falkon(job):
    set_ = Regression(job["train"], job["target"])
    x_test, y_test = set_.other(job["test"])
    z, _ = set_.other(job["centers"])
    solver = Falkon(set_.x, set_.y, z, job["bandwidth"], job["ridge"], job["threads"], job["size"], job["stored"])
    iterations = job["iterations"]
    run = lambda: solver.solve(iterations)
    run()
    while set_.error(solver.predict(x_test), y_test) > job.get("until", np.inf) and iterations < MOST_ITERATIONS:
        iterations *= 2
        run()
    least = best(run, job["repeats"], 120.0)
    how = f"{iterations} iterations, {solver.blocks.rows} rows a block, {solver.blocks.outer} x {solver.blocks.inner} threads, jitter {solver.jitter:.0e}"
    return {"seconds": least, "error": set_.error(solver.predict(x_test), y_test), "residual": solver.residual(), "how": how}


def nystroem(job):
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import Ridge

    def fit():
        nonlocal set_, features, ridge
        set_ = Regression(job["train"], job["target"], dtype=job["dtype"])
        features = Nystroem(kernel="rbf", gamma=0.5 / job["bandwidth"] ** 2, n_components=job["m"], random_state=0)
        ridge = Ridge(alpha=job["ridge"] * len(set_.x), fit_intercept=False)
        start = time.perf_counter()
        transformed = features.fit_transform(set_.x)
        middle = time.perf_counter()
        ridge.fit(transformed, set_.y.astype(job["dtype"]))
        parts.append((middle - start, time.perf_counter() - middle))

    set_, features, ridge, parts = None, None, None, []
    times = [seconds(fit) for _ in range(job["repeats"] + 1)][1:]
    x_test, y_test = set_.other(job["test"])
    error = set_.error(ridge.predict(features.transform(x_test)), y_test)
    return {"seconds": min(times), "error": error, "how": "features {:.2f} s, ridge {:.2f} s".format(*parts[-1])}


if __name__ == "__main__":
    serve({"falkon": falkon, "scikit-learn": nystroem})
