"""What the parts share: jobs in processes of their own, times, tables of data.

A peer runs in a process of its own, so that thread pools, allocators and crashes of one do not touch another: `run_job` starts a part's module with a job in
JSON, `serve` is the other end.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def environment(threads):
    """Equal numbers of threads for all, and memory that, once touched, stays: a large block that goes back to the system costs a page fault for every
    4 KiB when it is next asked for, which would be counted against the peers."""
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    heap = {"MALLOC_MMAP_MAX_": 0, "MALLOC_TRIM_THRESHOLD_": 1 << 40, "MALLOC_TOP_PAD_": 256 << 20, "MALLOC_ARENA_MAX": 1}
    settings = {**{name: threads for name in pools}, **heap, "PYTHONDONTWRITEBYTECODE": 1, "PYTHONWARNINGS": "ignore"}
    return os.environ | {name: str(value) for name, value in settings.items()}


def run_job(module, job, threads, limit):
    """The result of a job, or {"skipped": why}."""
    command = [sys.executable, str(HERE / f"{module}.py"), json.dumps(job | {"threads": threads})]
    try:
        done = subprocess.run(command, env=environment(threads), capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"skipped": f"took longer than {limit} s"}
    try:
        return json.loads(done.stdout.rstrip().rsplit("\n", 1)[-1])
    except ValueError:
        last = (done.stderr or done.stdout).strip().rsplit("\n", 1)[-1]
        return {"skipped": f"ended with code {done.returncode}: {last[:200]}"}


def serve(functions):
    """Runs the job of the command line by its "peer"; prints the result as the last line."""
    job = json.loads(sys.argv[1])
    try:
        result = functions[job["peer"]](job)
    except ModuleNotFoundError as error:
        result = {"skipped": f"{error.name} is not installed"}
    except Exception as error:  # any failure of a peer is a line of the table
        result = {"skipped": f"{type(error).__name__}: {str(error)[:200]}"}
    print("\n" + json.dumps(result))


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def best(run, repeats, budget=30.0):
    """The least seconds of up to `repeats` runs, fewer once `budget` is spent; the caller has run it before."""
    times = []
    while len(times) < repeats and sum(times) < budget:
        times.append(seconds(run))
    return min(times)


def read(paths, columns=None):
    """Columns of Parquet files as NumPy arrays, text as lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])
    return {name: table[name].to_pylist() if pa.types.is_string(table.schema.field(name).type) else table[name].to_numpy() for name in table.column_names}


class Regression:
    """Features in units of the training rows' standard deviations, as nystream encodes them; a target without its mean."""

    def __init__(self, train, target, dtype="f4"):
        import numpy as np

        columns = read([train])
        self.names, self.target, self.dtype = [name for name in columns if name != target], target, dtype
        x = np.stack([columns[name] for name in self.names], axis=1).astype("f8")
        self.mean, self.std, self.offset, self.spread = x.mean(axis=0), x.std(axis=0), columns[target].mean(), columns[target].std()
        self.x, self.y = self.encode(x), columns[target].astype("f8") - self.offset

    def encode(self, x):
        import numpy as np

        return np.ascontiguousarray(((x - self.mean) / self.std).astype("f4").astype(self.dtype))

    def other(self, path):
        """Features and target of another file."""
        import numpy as np

        columns = read([path])
        x = np.stack([columns[name] for name in self.names], axis=1).astype("f8")
        return self.encode(x), columns[self.target].astype("f8") - self.offset

    def error(self, predictions, y):
        """Standardised root mean square error."""
        return float(((predictions - y) ** 2).mean() ** 0.5 / self.spread)
