"""The model's rates from measured runs.

A run is a dictionary of what was asked for (n, m, d, t, iterations, workers, processes, solver) and of what was measured (runs.least). Two runs that differ in their iterations alone tell what an
iteration takes; what is left of the stage `solve` is the preconditioner.
"""

from exponents import relative_least_squares
from model import PRECONDITIONER, Problem, Rates, gram_bytes, touched_rows

PARTS = ("rows", "centers", "features", "targets", "algebra", "gram", "exchange")
SHAPE = ("n", "m", "d", "t", "workers", "processes")


def problem_of(run):
    memory = run.get("memory", Problem.memory)
    return Problem(run["n"], run["m"], run["d"], run["t"], run["iterations"], run["solver"], memory, cached_on_disk=run.get("place") != "decoded again")


def slopes(runs):
    """Of every shape that was run with two numbers of iterations: seconds of an iteration, and of the solve beside its passes."""
    shapes = {}
    for run in runs:
        if run["solver"] == "pcg":
            shapes.setdefault(tuple(run[name] for name in SHAPE), {})[run["report"]["iterations"]] = run["seconds"]["solve"]
    found = []
    for shape, solves in shapes.items():
        if len(solves) < 2:
            continue
        few, many = min(solves), max(solves)
        each = (solves[many] - solves[few]) / (many - few)
        if each > 0:
            found.append(dict(zip(SHAPE, shape)) | {"pass": each, "rest": max(solves[few] - (few + 2) * each, 0.0), "few": few})
    return found


def passes(found):
    """Seconds of a pass in one process: entries, vectors, and what it takes without rows."""
    alone = [slope for slope in found if slope["processes"] == 1]
    share = [slope["n"] * slope["m"] / slope["workers"] for slope in alone]
    columns = {
        "entry": share,
        "feature": [work * slope["d"] for work, slope in zip(share, alone)],
        "group": [work * Problem(slope["n"], slope["m"], targets=slope["t"]).groups for work, slope in zip(share, alone)],
        "vectors": [slope["m"] ** 2 for slope in alone],
        "passing": [1.0] * len(alone),
    }
    return relative_least_squares(columns, [slope["pass"] for slope in alone])


def preconditioner(found):
    """Seconds of a flop and of an f64 entry, from solves of so few rows that the algebra is most of them."""
    alone = [slope for slope in found if slope["rest"] > 0]
    sampled = [Problem(slope["n"], slope["m"]).preconditioner_rows for slope in alone]
    columns = {
        "algebra": [(PRECONDITIONER * slope["m"] ** 3 + 2 * s * slope["m"] ** 2) / slope["workers"] for slope, s in zip(alone, sampled)],
        "single": [slope["m"] ** 2 + s * slope["m"] for slope, s in zip(alone, sampled)],
    }
    return relative_least_squares(columns, [slope["rest"] for slope in alone])


def grams(runs):
    """Seconds of an entry, of a flop of n m^2, and per m^3 of the gram solve."""
    alone = [run for run in runs if run["solver"] == "gram" and run["processes"] == 1]
    work = [run["n"] * run["m"] / run["workers"] for run in alone]
    columns = {"gram_entry": work, "gram_flop": [each * run["m"] for each, run in zip(work, alone)]}
    found = relative_least_squares(columns, [run["seconds"]["gram"] for run in alone])
    largest = max(alone, key=lambda run: run["m"])
    return found | {"eigen": largest["seconds"]["solve"] * largest["workers"] / largest["m"] ** 3}


def stages(runs):
    """Seconds of a value that is profiled or decoded, its bytes, and seconds of a row that is chosen from, of the run with most rows that are kept in memory after two passes over Parquet; of the
    process beside its stages, of the one with fewest."""
    alone = [run for run in runs if run["processes"] == 1 and problem_of(run).place == "memory"]
    most, few = max(alone, key=lambda run: run["n"]), min(alone, key=lambda run: run["n"])
    values = most["n"] * (most["d"] + most["t"]) / most["workers"]
    read = 2 * touched_rows(most["n"], most["workers"]) * (most["d"] + most["t"])
    return {
        "value_bytes": most["report"]["bytes_read"] / read,
        "profile": most["seconds"]["profile"] / values,
        "decode": most["seconds"]["sample"] / values,
        "choose": most["seconds"]["dictionary"] * most["workers"] / most["n"],
        "start": max(few["wall"] - few["seconds"]["total"], 0.0) + few["seconds"]["tune"] + few["seconds"]["plan"],
    }


def exchanges(runs, found):
    """Seconds that each further process adds to a pass, and of a byte on its way between workers."""
    few = min(slope["n"] for slope in found)
    tiny = {slope["processes"]: slope["pass"] for slope in found if slope["n"] == few}
    most = max(tiny)
    joining = max(tiny[most] - tiny[1], 0.0) / (most - 1) if most > 1 else 0.0
    pairs = [(one, two) for one in runs for two in runs if one["solver"] == two["solver"] == "gram" and (one["processes"], two["processes"]) == (1, 2)]
    pairs = [(one, two) for one, two in pairs if (one["n"], one["m"], one["workers"]) == (two["n"], two["m"], 2 * two["workers"])]
    wires = [max(two["seconds"]["gram"] - one["seconds"]["gram"], 0.0) / gram_bytes(two["n"], two["m"], 2) for one, two in pairs]
    return {"joining": joining, "wire": sum(wires) / len(wires) if wires else 0.0}


def rates(parts):
    """All rates, from the parts of the run that PARTS names."""
    runs = [run for name in PARTS for run in parts[name]]
    found = slopes(runs)
    return Rates(**passes(found), **preconditioner(slopes(parts["algebra"])), **grams(runs), **stages(runs), **exchanges(runs, found))
