"""Kernel products K v: Gaussian, f32, K never whole in memory. Rows, centers and vector come from raw files that nystream reads too."""

import numpy as np

from chunks import SIZES, Blocks, Numpy, Torch, fastest, modes
from common import best, seconds, serve

BUDGET = 10.0  # seconds a product may take; slower peers get fewer rows


def data(job):
    shapes = {"x": (job["rows"], job["d"]), "z": (job["centers"], job["d"]), "v": (job["centers"],)}
    return [np.fromfile(f"{job['folder']}/{name}.{job['d']}.f32", "<f4").reshape(shape) for name, shape in shapes.items()]


def error(x, z, v, scale, product):
    """Relative error of the first rows, against f64."""
    x, z = x[:256].astype("f8"), z.astype("f8")
    squares = (x**2).sum(1)[:, None] + (z**2).sum(1) - 2 * x @ z.T
    exact = np.exp(-scale * squares) @ v.astype("f8")
    return float(np.linalg.norm(product[: len(exact)] - exact) / np.linalg.norm(exact))


def of_nystream(job):
    """Errors of the products that nystream's bench left beside the data."""
    x, z, v = data(job)
    product = lambda kind: np.fromfile(f"{job['folder']}/kv.{job['d']}.f{8 * np.dtype(kind).itemsize}", kind)
    return {sums: error(x, z, v, 0.5 / job["d"], product(kind)) for sums, kind in (("f32_sums", "<f4"), ("f64_sums", "<f8"))}


def result(job, rows, least, wrong, how):
    return {"seconds": least, "rows": rows, "entries_per_second": rows * job["centers"] / least, "error": wrong, "how": how}


def by_blocks(job, library):
    x, z, v = data(job)
    scale = 0.5 / job["d"]
    own, w = library.own(x), library.own(v)
    out = library.empty(len(x))

    def run(blocks):
        blocks.each(lambda _, start, end, k: library.times(k, w, out[start:end]))

    blocks = fastest(library, own, z, scale, job["threads"], run)
    run(blocks)
    least = best(lambda: run(blocks), job["repeats"])
    return result(job, len(x), least, error(x, z, v, scale, np.asarray(out)), f"{blocks.rows} rows a block, {blocks.outer} x {blocks.inner} threads")


def sklearn(job):
    from sklearn.metrics.pairwise import rbf_kernel

    class Sklearn(Numpy):
        pass

    class Kernel(Blocks):
        def block(self, start, end, a, k):
            return rbf_kernel(self.x[start:end], z, scale)

    x, z, v = data(job)
    scale, library = 0.5 / job["d"], Sklearn()
    out, tried = np.empty(len(x), "f4"), []
    for outer, inner in modes(job["threads"]):
        for rows in SIZES:
            blocks = Kernel(library, x[:8192], z, scale, rows, outer, inner)
            run = lambda: blocks.each(lambda _, start, end, k: np.matmul(k, v, out=out[start:end]))
            run()
            tried.append((best(run, 2, 2.0) * len(x) / len(blocks.x), rows, outer, inner))
    estimate, *shape = min(tried)
    some = min(len(x), int(len(x) * BUDGET / estimate))
    blocks = Kernel(library, x[:some], z, scale, *shape)
    run()
    least = best(run, job["repeats"])
    return result(job, some, least, error(x[:some], z, v, scale, out[:some]), f"{shape[0]} rows a block, {shape[1]} x {shape[2]} threads")


def keops(job):
    from pykeops.numpy import LazyTensor

    x, z, v = data(job)
    scale = 0.5 / job["d"]

    def product(some):
        squares = ((LazyTensor(x[:some, None, :]) - LazyTensor(z[None])) ** 2).sum(-1)
        return (-scale * squares).exp() @ v[:, None]

    product(256)  # compiles
    estimate = seconds(lambda: product(1024)) * len(x) / 1024
    some = min(len(x), max(1024, int(len(x) * BUDGET / estimate)))
    least = best(lambda: product(some), job["repeats"])
    return result(job, some, least, error(x[:some], z, v, scale, product(some)[:, 0]), f"{some} rows")


if __name__ == "__main__":
    serve({"numpy": lambda job: by_blocks(job, Numpy()), "torch": lambda job: by_blocks(job, Torch()), "scikit-learn": sklearn, "keops": keops})
