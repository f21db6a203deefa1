"""A fit of 10^9 rows and 10^5 centers on 1 to 1,000 machines, by the model."""

import math
from dataclasses import replace

from model import PRECONDITIONER, Cluster, Problem, Program, fit, pool_flops

PROBLEM = Problem(rows=10**9, centers=10**5, features=30, iterations=25, memory=400 * 2.0**30)
MACHINES = (1, 2, 4, 10, 30, 100, 300, 1000)
CORES, LATENCY = 32, 50e-6
GIGABITS = (10, 25, 100)
CHANGES = {
    "the program as it is": Program(),
    "sums merged in each process, segments owned by all": Program(scattered=True),
    "and algebra shared by all machines": Program(scattered=True, shared_algebra=True),
}
MOVES = {
    "kernel entries": "more machines",
    "m x m algebra": "factors shared by processes, or fewer m^3: eigenpro with centers spread over processes",
    "m x m matrices times vectors": "the same: factors shared by processes",
    "sums of the workers": "merging within a process, segments owned by all workers, one copy of the result a process",
    "rows from disk or Parquet": "more machines",
    "K_mm and samples by one thread": "threads over the rows of K_mm",
    "waiting": "fewer processes a machine; sums that do not wait for all",
}


def cluster(machines, gigabits, disk):
    return Cluster(machines, CORES, CORES, gigabits * 1e9 / 8, LATENCY, disk)


def time(seconds):
    """For people."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.2g} s"


def tables(rates, disk, table):
    found = {"forecast": present(rates, disk, table), "forecast_parts": shares(rates, disk, table), "changes": changed(rates, disk, table), "networks": networks(rates, disk, table)}
    return found | {"needs": needs(rates, table), "bites": bites(rates, table)}


def present(rates, disk, table):
    lines = []
    for machines in MACHINES:
        cost = fit(PROBLEM, cluster(machines, 25, disk), rates)
        shares = cost.by_what()
        first, second = sorted(shares, key=shares.get, reverse=True)[:2]
        total = cost.total()
        name = lambda what: f"{what} ({100 * shares[what] / total:.0f} %)"
        lines.append([machines, time(total), f"{fit(PROBLEM, cluster(1, 25, disk), rates).total() / total:.3g}", name(first), name(second), MOVES[first]])
    return table(["machines", "time", "times one machine", "bottleneck", "next", "what would move it"], lines)


def shares(rates, disk, table):
    """Seconds by what takes them."""
    names = list(MOVES)
    lines = []
    for machines in MACHINES:
        found = fit(PROBLEM, cluster(machines, 25, disk), rates).by_what()
        lines.append([machines, *(time(found.get(name, 0.0)) for name in names)])
    return table(["machines", *names], lines)


def changed(rates, disk, table):
    lines = [[name, *(time(fit(PROBLEM, cluster(machines, 25, disk), rates, program).total()) for machines in MACHINES)] for name, program in CHANGES.items()]
    return table(["machines", *MACHINES], lines)


def networks(rates, disk, table):
    """Time at other networks, and what waits in the busiest process."""
    lines = []
    for machines in MACHINES[1:]:
        costs = [fit(PROBLEM, cluster(machines, gigabits, disk), rates) for gigabits in GIGABITS]
        lines.append([machines, *(time(cost.total()) for cost in costs), f"{costs[0].network / (PROBLEM.iterations + 2) / 1e9:.3g} GB", f"{costs[0].queued / 1e9:.3g} GB"])
    return table(["machines", *(f"{gigabits} Gbit/s" for gigabits in GIGABITS), "between processes, a pass", "waiting in one process at once"], lines)


def needs(rates, table):
    """Memory of a process and flops that the fit needs."""
    m, n = PROBLEM.centers, PROBLEM.rows
    pool = 50 * m
    lines = [
        ["K_mm, its factor and the preconditioner (pcg), each process", f"3 x 8 m^2 = {24 * m**2 / 1e9:.0f} GB"],
        ["rows kept in memory, all of them", f"{n * PROBLEM.row_bytes / 1e9:.0f} GB; kept where that is a third of --memory, however many processes share them"],
        ["sampled rows of the preconditioner", f"{PROBLEM.preconditioner_rows:,.0f}: the hashed sample, where {min(1 + 80 * n // m**2, 3)} m were planned"],
        ["algebra of the preconditioner, each process", f"{PRECONDITIONER * m**3 + 2 * PROBLEM.preconditioner_rows * m**2:.2g} flops"],
        ["kernel entries of a pass", f"{float(n * m):.0e}"],
        ["centers by `--select auto`: a pool of 50 m rows, each process", f"{pool_flops(pool, m):.0e} flops: {time(pool_flops(pool, m) * rates.algebra / CORES)} on {CORES} cores, at the rate of m x m algebra"],
    ]
    return table(["what", "how much"], lines)


def bites(rates, table):
    """Where the preconditioner takes as long as the passes, with 25 iterations on this machine's two cores."""
    lines = []
    for rows in (10**5, 10**6, 10**7, 10**8, 10**9):
        m = crossing(rows, rates)
        lines.append([f"{rows:,}", f"{m:,}"])
    return table(["rows", "centers from which the m x m algebra of a solve takes longer than its kernel entries"], lines)


def crossing(rows, rates):
    """By bisection on the logarithm of m."""

    def heavy(m):
        shares = fit(replace(Problem(rows, m, 10, memory=math.inf)), Cluster(1, 2, 2), rates).by_what()
        return shares["m x m algebra"] + shares["m x m matrices times vectors"] > shares["kernel entries"]

    low, high = 1.0, 7.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if heavy(int(10**middle)) else (middle, high)
    return int(float(f"{10**high:.2g}"))
