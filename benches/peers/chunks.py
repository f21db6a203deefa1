"""Gaussian kernel blocks by NumPy and torch, as fast as their own operations allow.

The exponent -|x - z|^2 / 2 sigma^2 is one matrix product of rows and centers with two more columns, so that a block is one product and one exponential,
both into memory that is there before; workers take blocks of rows in turn, each with its own block.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

SIZES = (128, 512, 2048)  # rows of a block; the fastest of them counts


def modes(threads):
    """Threads outside and inside a library: blocks at once by one thread each, or one block by all."""
    return [(threads, 1), (1, threads)] if threads > 1 else [(1, 1)]


class Numpy:
    float = {4: np.float32, 8: np.float64}

    def __init__(self):
        import threadpoolctl

        self.limits = threadpoolctl.ThreadpoolController()

    def inner(self, threads):
        self.limits.limit(limits=threads)

    def empty(self, *shape, size=4):
        return np.zeros(shape, self.float[size])

    def own(self, array, size=4):
        return np.ascontiguousarray(array, self.float[size])

    def exponential(self, a, b, out):
        np.matmul(a, b, out=out)
        np.exp(out, out=out)

    def times(self, k, v, out):
        np.matmul(k, v, out=out)

    def norms(self, x):
        return np.einsum("ij,ij->i", x, x)


class Torch:
    def __init__(self):
        import torch

        torch.set_grad_enabled(False)
        self.torch, self.float = torch, {4: torch.float32, 8: torch.float64}

    def inner(self, threads):
        self.torch.set_num_threads(threads)

    def empty(self, *shape, size=4):
        return self.torch.zeros(shape, dtype=self.float[size])

    def own(self, array, size=4):
        return self.torch.as_tensor(array).to(self.float[size]).contiguous()

    def exponential(self, a, b, out):
        self.torch.mm(a, b, out=out)
        out.exp_()

    def times(self, k, v, out):
        self.torch.mv(k, v, out=out)

    def norms(self, x):
        return self.torch.linalg.vecdot(x, x)


class Blocks:
    """Blocks of K(x, z) of `library`, `rows` at a time, by `outer` threads."""

    def __init__(self, library, x, z, scale, rows, outer, inner, size=4):
        self.library, self.rows, self.outer, self.inner, self.size = library, rows, outer, inner, size
        self.x, self.scale, self.n, (self.m, self.d) = x, scale, len(x), z.shape
        z = library.own(z, 8)
        self.b = library.empty(self.d + 2, self.m, size=size)
        self.b[: self.d], self.b[self.d], self.b[self.d + 1] = 2 * scale * z.T, 1, -scale * library.norms(z)
        self.buffers = [(library.empty(rows, self.d + 2, size=size), library.empty(rows, self.m, size=size)) for _ in range(outer)]
        for a, _ in self.buffers:
            a[:, self.d + 1] = 1
        self.pool = ThreadPoolExecutor(outer, initializer=self.start)

    def start(self):
        if self.library.__class__ is Torch:
            self.library.inner(self.inner)  # torch keeps the number for each thread

    def each(self, use):
        """use(worker, start, end, block) for all rows; a worker's blocks come one after another."""
        starts = range(0, self.n, self.rows)

        def work(worker):
            a, k = self.buffers[worker]
            for start in starts[worker :: self.outer]:
                end = min(start + self.rows, self.n)
                use(worker, start, end, self.block(start, end, a, k))

        self.library.inner(self.inner)
        list(self.pool.map(work, range(self.outer)))

    def block(self, start, end, a, k):
        a, k, x = a[: end - start], k[: end - start], self.x[start:end]
        a[:, : self.d], a[:, self.d] = x, -self.scale * self.library.norms(x)
        self.library.exponential(a, self.b, k)
        return k


def fastest(library, x, z, scale, threads, run, size=4, trial=16384):
    """The blocks, of all sizes and modes, with which `run` is fastest on some rows."""
    from common import best

    tried = []
    for outer, inner in modes(threads):
        for rows in SIZES:
            blocks = Blocks(library, x[:trial], z, scale, rows, outer, inner, size)
            run(blocks)
            tried.append((best(lambda: run(blocks), 3, 3.0), rows, outer, inner))
    return Blocks(library, x, z, scale, *min(tried)[1:], size)
