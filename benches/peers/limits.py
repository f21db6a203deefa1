"""What the machine can do at most: bytes a second of memory and of the disk. (Its multiply-add peak is measured by nystream's bench.)"""

import mmap
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

from common import best, seconds, serve


def memory(job):
    """a = b + c over arrays that no cache holds, each thread over its part; three times their bytes are counted."""
    import numpy as np

    length = job["bytes"] // 8
    parts = [slice(i * length // job["threads"], (i + 1) * length // job["threads"]) for i in range(job["threads"])]
    a, b, c = (np.ones(length) for _ in range(3))
    with ThreadPoolExecutor(job["threads"]) as pool:
        run = lambda: list(pool.map(lambda part: np.add(b[part], c[part], out=a[part]), parts))
        run()
        return {"bytes_per_second": 3 * a.nbytes / best(run, 8)}


def disk(job):
    """A file written and synchronised, then read past the system's cache."""
    block = 8 << 20
    buffer = mmap.mmap(-1, block)
    buffer.write(os.urandom(block))
    descriptor, name = tempfile.mkstemp(dir=job["folder"])
    os.close(descriptor)
    try:
        direct = os.open(name, os.O_RDWR | getattr(os, "O_DIRECT", 0))
        blocks = job["bytes"] // block

        def write():
            for i in range(blocks):
                os.pwrite(direct, buffer, i * block)
            os.fsync(direct)

        def read():
            for i in range(blocks):
                os.preadv(direct, [buffer], i * block)

        return {"written": blocks * block / seconds(write), "bytes_per_second": blocks * block / best(read, 3)}
    finally:
        os.unlink(name)


if __name__ == "__main__":
    serve({"memory": memory, "disk": disk})
