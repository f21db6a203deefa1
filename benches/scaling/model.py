"""What a fit costs: seconds and bytes of every stage, on any number of processes.

Counts are those of the program as it is (the file each was read from is named), not of an ideal one. Rates are measured (rates.py). Where a `Program` says so, what the program would cost
after a change is counted instead.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

BLOCK_ROWS = 2048  # rows of a sum block
GROUP_ROWS, PAGE_ROWS = 1 << 16, 20_480  # rows of a row group of Parquet, and of a page, as `datasets make` writes them
SEGMENT = 1 << 16  # values of a sum that meet at one worker (engine/sums.rs)
FRAGMENT, ENVELOPE, NODE = (1 << 20) - 256, 44, 24  # bytes of a message at most, beside its payload, and beside the values of a node (engine/exchange.rs)
LOGICAL_PARALLELISM = 8  # threads that an eigensystem takes at most (kernels/src/constants.rs)
ENTRY_BITS, GRAM_TILE = 44, 192  # bits of a squared entry in a Gram, and order of its tiles (kernels/src/gram)
GRAM_ALGEBRA = 12  # m^3 flops of the gram solve (plan/cost.rs)
LANES = 8  # f64 columns that entries are multiplied with at once (AVX-512)
SAMPLE_ROWS, TRACE_ROWS, HELD_OUT_ROWS = 20_000, 2_000, 500
PRECONDITIONER = 7 / 3  # m^3 flops of the factors and Grams of centers beside 2 s m^2 for s sampled rows (nystrom/basis.rs)
PASS_MESSAGES = 4  # one-way messages that a pass waits for: parcels, their end, results, their end
LETTER = 24  # bytes of a sampled row beside its numbers (dictionary/pool.rs)


@dataclass(frozen=True)
class Problem:
    rows: int
    centers: int
    features: int = 10
    targets: int = 1
    iterations: int = 25
    solver: str = "pcg"
    memory: float = 8 * 2.0**30  # --memory
    cached_on_disk: bool = True  # whether --disk-limit allows it

    @property
    def values(self):
        return self.features + self.targets

    @property
    def groups(self):
        """Groups of columns that share their products with entries: one column has a loop of its own (kernels/src/tile/products.rs)."""
        return 0 if self.targets == 1 else math.ceil(self.targets / LANES)

    @property
    def row_bytes(self):
        """Of an encoded row between passes (job/fit/rows.rs)."""
        return 4 * self.features + 8 * self.targets + 48

    @property
    def cached_row(self):
        """Bytes of a row in a cache on disk: without what `row_bytes` allows for (datasets/src/chunk.rs)."""
        return 4 * self.features + 8 * self.targets + 33

    @property
    def place(self):
        """Where encoded rows are between passes. The first test is on all rows, not on those of a process."""
        if self.rows * self.row_bytes <= self.memory / 3:
            return "memory"
        return "disk" if self.cached_on_disk else "decoded again"

    @property
    def entry_flops(self):
        """Of an entry (plan/cost.rs)."""
        return 2 * self.features + 20

    @property
    def sample(self):
        """Rows of the hashed sample (dictionary/pool.rs)."""
        needed = SAMPLE_ROWS + 8 * SAMPLE_ROWS**0.5 + 64
        bits = int(math.log2(self.rows / needed)) if self.rows >= 2 * needed else 0
        return self.rows / 2**bits

    @property
    def preconditioner_rows(self):
        """Sampled rows of the preconditioner: m to 3 m (plan/cost.rs), and no more than the sample has."""
        m = self.centers
        return min(min(1 + 80 * self.rows // m**2, 3) * m, self.sample)


@dataclass(frozen=True)
class Cluster:
    processes: int = 1
    workers: int = 2  # of each process
    cores: float = 2  # that each process has to itself
    network: float = math.inf  # bytes a second of a machine, each way; infinite on loopback, whose cost is in Rates.wire
    latency: float = 0.0  # seconds of a message, one way
    disk: float = math.inf  # bytes a second of a machine

    @property
    def peers(self):
        return self.processes * self.workers

    @property
    def busy(self):
        """Cores of all processes that scan rows."""
        return self.processes * min(self.workers, self.cores)

    @property
    def alone(self):
        """Share of a core that one thread has while the other processes do the same."""
        return min(1.0, self.cores)

    def uneven(self, rows):
        """By how much the worker with most sum blocks has more than the mean."""
        blocks = -(-rows // BLOCK_ROWS)
        return -(-blocks // self.peers) * self.peers / blocks


@dataclass(frozen=True)
class Rates:
    """Seconds of one core, unless said otherwise."""

    entry: float  # of a kernel entry in a pass of conjugate gradients, K^T (K v)
    feature: float  # more for each feature
    group: float  # more for each group of up to eight targets where there are several
    vectors: float  # seconds of a process per m^2 of an iteration: products with R, R^T, K_mm and the preconditioner
    passing: float  # seconds of a pass without rows
    joining: float  # more for each process beyond the first
    algebra: float  # of a flop of m x m algebra
    single: float  # of an f64 entry of K_mm or of sampled rows, which one thread forms, copies and weighs
    eigen: float  # per m^3 of the gram solve
    gram_entry: float  # of an entry that enters a Gram
    gram_flop: float  # of a flop of n m^2
    profile: float  # of a value that is profiled
    decode: float  # of a value that is decoded, encoded and hashed
    choose: float  # of a row that uniform centers are chosen from
    start: float  # seconds of the process beside its stages
    wire: float  # per byte that one worker takes apart, merges, copies and sends (loopback included)
    value_bytes: float  # of a value in Parquet


@dataclass(frozen=True)
class Program:
    """The program, or what it would be."""

    scattered: bool = False  # sums merged in each process first, segments owned by all processes, one copy of the result a process
    shared_algebra: bool = False  # m x m algebra shared by all processes, without counting what they would send


@dataclass
class Cost:
    """Seconds by (stage, what takes them), and what is counted, of all processes."""

    seconds: dict = field(default_factory=dict)
    entries: float = 0.0  # kernel entries, as the report counts them
    flops: float = 0.0  # as the report counts them: algebra once, however many processes do it
    read: float = 0.0  # bytes from files and caches
    network: float = 0.0  # bytes between processes
    queued: float = 0.0  # bytes that wait in one process at once

    def add(self, stage, what, seconds):
        self.seconds[stage, what] = self.seconds.get((stage, what), 0.0) + seconds

    def total(self, stage=None):
        return sum(seconds for (own, _), seconds in self.seconds.items() if stage in (None, own))

    def by_what(self):
        found = {}
        for (_, what), seconds in self.seconds.items():
            found[what] = found.get(what, 0.0) + seconds
        return found


def pending_nodes(first, end, total):
    """Nodes that a worker sends of the fixed tree over `total` blocks when it has summed blocks first..end (kernels/src/tree.rs).

    >>> pending_nodes(0, 5, 5), pending_nodes(4, 5, 5)  # the sum, and a node that is its own parent
    (1, 1)
    >>> pending_nodes(0, 10, 20), pending_nodes(10, 20, 20)  # 0-7, 8-9; 10-11, 12-15, 16-19
    (2, 3)
    """
    if end == total:
        end = 1 << (total - 1).bit_length()  # nodes wholly beyond the last block are not waited for
    nodes = 0
    while first < end:
        size = first & -first or 1 << end.bit_length()
        while size > end - first:
            size >>= 1
        first, nodes = first + size, nodes + 1
    return nodes


@lru_cache
def sent_nodes(rows, owners):
    """Nodes that each of so many owners of runs of blocks sends."""
    blocks = -(-rows // BLOCK_ROWS)
    cut = lambda i: blocks * i // owners
    return [pending_nodes(cut(i), cut(i + 1), blocks) if cut(i) < cut(i + 1) else 0 for i in range(owners)]


def page_of(row):
    """First row of the page of Parquet that holds a row, and the first after it."""
    group = row // GROUP_ROWS * GROUP_ROWS
    start = group + (row - group) // PAGE_ROWS * PAGE_ROWS
    return start, min(start + PAGE_ROWS, group + GROUP_ROWS)


@lru_cache
def touched_rows(rows, peers):
    """Rows of the pages that every worker reads of: one that a cut between two workers falls into is read by both.

    >>> touched_rows(40_000, 2), touched_rows(20_000, 2)  # between two pages, and within the only one
    (40000, 40000)
    """
    blocks = -(-rows // BLOCK_ROWS)
    cuts = [min(blocks * i // peers * BLOCK_ROWS, rows) for i in range(peers + 1)]
    return sum(min(page_of(end - 1)[1], rows) - page_of(first)[0] for first, end in zip(cuts, cuts[1:]) if first < end)


def enveloped(payload):
    return payload + ENVELOPE * max(1, math.ceil(payload / FRAGMENT))


@lru_cache
def reduction(rows, length, processes, workers, scattered):
    """Bytes of a sum of `length` values over the rows' blocks: between processes in all, through the busiest process, through the busiest worker, and waiting at once in the busiest process.

    As it is, segment k belongs to worker k mod peers, so that a vector of fewer than 65,536 values belongs to the first worker alone, every worker sends its nodes there,
    and every worker gets a copy of the sum.
    """
    peers = processes * workers
    if scattered:
        # Each process merges its workers' nodes, sends each of the others its segments and gets as much; and the same for the result.
        nodes = max(sent_nodes(rows, processes))
        each = (nodes + 1) * 8 * length * (processes - 1) / processes
        return each * processes, 2 * each, 2 * each / workers, nodes * 8 * length
    nodes = sent_nodes(rows, peers)
    total, busiest_worker = 0.0, 0.0
    through, waiting, own = [0.0] * processes, [0.0] * processes, {}
    for segment, start in enumerate(range(0, length, SEGMENT)):
        values = 8 * (min(start + SEGMENT, length) - start)
        owner = segment % peers
        place = owner // workers
        local = nodes[place * workers : (place + 1) * workers]
        parcel = lambda count: enveloped(count * (NODE + values))
        in_all, from_own = sum(map(parcel, nodes)), sum(map(parcel, local))
        out = (peers - workers) * enveloped(values)
        total += in_all - from_own + out
        through[place] += in_all - from_own + out
        waiting[place] += in_all
        own[owner] = own.get(owner, 0.0) + in_all + peers * enveloped(values)
        busiest_worker = max(busiest_worker, own[owner])
    return total, max(through), busiest_worker, max(waiting)


def reduce(cost, stage, problem, cluster, rates, program, length, times=1):
    """Adds `times` reductions of `length` values, with what a pass takes without rows."""
    total, process, worker, waiting = reduction(problem.rows, length, cluster.processes, cluster.workers, program.scattered)
    cost.add(stage, "waiting", times * (rates.passing + rates.joining * (cluster.processes - 1) + PASS_MESSAGES * cluster.latency))
    if cluster.processes > 1:
        cost.add(stage, "sums of the workers", times * (worker * rates.wire + process / cluster.network))
        cost.network += times * total
        cost.queued = max(cost.queued, waiting)


def again(cost, stage, problem, cluster, rates, passes=1):
    """Adds what bringing the rows of further passes takes where they are not in memory."""
    if problem.place == "disk":
        kept = passes * problem.rows * problem.cached_row
        cost.read += kept
        cost.add(stage, "rows from disk or Parquet", kept / (cluster.processes * cluster.disk))
    if problem.place == "decoded again":
        decode(cost, stage, problem, cluster, rates, rates.decode, passes)


def decode(cost, stage, problem, cluster, rates, each, passes=1):
    """Adds passes over Parquet of `each` seconds a value: what takes longer, the disk or the cores."""
    values = passes * problem.rows * problem.values
    read = passes * touched_rows(problem.rows, cluster.peers) * problem.values * rates.value_bytes
    cost.read += read
    cost.add(stage, "rows from disk or Parquet", max(values * each / cluster.busy, read / (cluster.processes * cluster.disk)))


def algebra(flops, each, cluster, program, most=math.inf):
    """Seconds of m x m algebra, `each` a flop of one core, which every process does for itself, on `most` threads at most."""
    threads = min(most, cluster.workers, cluster.cores)
    return flops * each / threads / (cluster.processes if program.shared_algebra else 1)


def prepare(cost, problem, cluster, rates):
    """Profile, sample and uniform centers: a pass each."""
    n, p = problem.rows, cluster.processes
    cost.add("start", "waiting", rates.start / cluster.alone)
    decode(cost, "profile", problem, cluster, rates, rates.profile)
    decode(cost, "sample", problem, cluster, rates, rates.decode)
    sampled = problem.sample * (problem.row_bytes - 48 + LETTER)
    cost.network += sampled * (p - 1)
    cost.add("sample", "sums of the workers", sampled * (p - 1) / p / cluster.network)
    cost.add("dictionary", "rows from disk or Parquet", n * rates.choose / cluster.busy)
    if problem.place != "memory":
        # A cache on disk is filled by this pass.
        decode(cost, "dictionary", problem, cluster, rates, rates.decode)


def certify(cost, problem, cluster, rates, program):
    m = problem.centers
    flops = m**3 / 3 + TRACE_ROWS * m**2 + 9 * HELD_OUT_ROWS**3
    cost.flops += flops + (m / 2 + TRACE_ROWS) * m * problem.entry_flops
    cost.add("certify", "m x m algebra", algebra(flops, rates.algebra, cluster, program))
    cost.add("certify", "K_mm and samples by one thread", (m**2 / 2 + TRACE_ROWS * m) * rates.single / cluster.alone)


def pcg(problem, cluster, rates, program=Program()):
    """Conjugate gradients: the right-hand side, a preconditioner, `iterations` passes and one for the true residual."""
    cost, (n, m, t) = Cost(), (problem.rows, problem.centers, problem.targets)
    prepare(cost, problem, cluster, rates)
    passes, sampled = problem.iterations + 2, problem.preconditioner_rows
    each = rates.entry + rates.feature * problem.features + rates.group * problem.groups
    cost.add("solve", "kernel entries", passes * n * m * each / cluster.busy * cluster.uneven(n))
    again(cost, "solve", problem, cluster, rates, passes)
    # The right-hand side carries 2 m masses of the centers beside m t values.
    reduce(cost, "solve", problem, cluster, rates, program, m * (t + 2))
    reduce(cost, "solve", problem, cluster, rates, program, m * t, passes - 1)
    factors = PRECONDITIONER * m**3 + 2 * sampled * m**2
    cost.entries += (passes * n + sampled) * m
    cost.flops += cost.entries * problem.entry_flops + (2 + 4 * (passes - 1)) * t * n * m + factors + 6 * problem.iterations * m**2 * t
    cost.add("solve", "m x m algebra", algebra(factors, rates.algebra, cluster, program))
    cost.add("solve", "K_mm and samples by one thread", (m**2 + sampled * m) * rates.single / cluster.alone)
    shared = cluster.processes if program.shared_algebra else 1
    cost.add("solve", "m x m matrices times vectors", (passes - 1) * m**2 * rates.vectors / cluster.alone / shared)
    certify(cost, problem, cluster, rates, program)
    return cost


def gram_bytes(rows, m, processes):
    """Bytes of the sums of a Gram on their way: tiles of the lower triangle, integers of as many bytes as the largest needs (kernels/src/gram/pieces.rs)."""
    bits = ENTRY_BITS + math.log2(max(rows / processes, 1))
    return m * (m + GRAM_TILE) / 2 * (bits // 8 + 1)


def gram(problem, cluster, rates, program=Program()):
    """The exact Gram: one pass, its sums exchanged between processes, the ridge path."""
    cost, (n, m, p) = Cost(), (problem.rows, problem.centers, cluster.processes)
    prepare(cost, problem, cluster, rates)
    cost.entries += n * m
    cost.flops += n * m * (problem.entry_flops + m + 2 * problem.targets) + GRAM_ALGEBRA * m**3
    cost.add("gram", "kernel entries", n * m * (rates.gram_entry + m * rates.gram_flop) / cluster.busy * cluster.uneven(n))
    again(cost, "gram", problem, cluster, rates)
    if p > 1:
        # Each process sends its sums to the owners of the pieces, which send every process all of them; pieces are spread over all workers.
        through = 2 * gram_bytes(n, m, p) * (p - 1) / p
        cost.network += through * p
        cost.add("gram", "sums of the workers", through * rates.wire + 2 * through / cluster.network)
        cost.add("gram", "waiting", 2 * (rates.passing + rates.joining * (p - 1) + PASS_MESSAGES * cluster.latency))
    cost.add("solve", "m x m algebra", algebra(m**3, rates.eigen, cluster, program, LOGICAL_PARALLELISM))
    certify(cost, problem, cluster, rates, program)
    return cost


def fit(problem, cluster, rates, program=Program()):
    return {"pcg": pcg, "gram": gram}[problem.solver](problem, cluster, rates, program)


def pool_flops(rows, m):
    """Flops of randomly pivoted Cholesky on a pool, which every process does for itself (`--select auto` and `rpcholesky`): m^2 a row."""
    return rows * m**2
