"""The tables of docs/scaling.md from what was measured, in Markdown."""

import os
import re
import statistics

import forecast
import model
import rates
from exponents import exponent


def title(shape):
    """A shape in words, for lines and keys."""
    crew = f"{shape['processes']} x {shape['workers']}"
    place = f", {shape['place']}" if "place" in shape else ""
    return f"{shape['solver']} n = {shape['n']:,}, m = {shape['m']:,}, d = {shape['d']}, t = {shape['t']}, {shape['iterations']} iterations, {crew} workers{place}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def figure(value, digits=3):
    """A number with so many significant digits."""
    return "" if value is None else f"{float(f'{value:.{digits}g}'):,.10g}"


def percent(value):
    return f"{100 * value:+.0f} %"


def all_tables(document, by_processor=False):
    """Every table of which the parts were measured, by name. `by_processor`: of a machine that did other work, see `undisturbed`."""
    parts, found = document["parts"], {"machine": machine(document, by_processor)}
    if by_processor:
        parts = {name: [undisturbed(run) for run in runs] if isinstance(runs, list) else runs for name, runs in parts.items()}
    makers = {"exponents": exponents, "sweeps": sweeps, "workers": workers, "memory": out_of_core, "predict": prediction}
    needs = {"exponents": ("rows", "centers", "features", "targets", "gram"), "sweeps": ("rows", "centers"), "workers": ("workers", "probe"), "memory": ("memory",), "predict": ("predict", "probe")}
    for name, maker in makers.items():
        if all(part in parts for part in needs[name]):
            found[name] = maker(parts)
    if by_processor:
        found |= {name: "Not measured: the machine did other work." for name in ("workers", "predict")}
    if all(part in parts for part in rates.PARTS):
        measured = rates.rates(parts)
        found["rates"] = rates_table(measured)
        if "processes" in parts:
            found["validation"], found["errors"] = validation(parts, measured)
            found["counts"] = counts(parts, measured)
        disk = (parts.get("probe") or {}).get("disk") or 1e9
        found |= forecast.tables(measured, disk, table)
    if plans := parts.get("plans"):
        found["refusal"] = f"    {plans['refused']['message']}\n\nand ends with code {plans['refused']['code']}."
        lines = [[name, f"{plan['memory'] / 2**30:.3g} GiB", plan["largest"]] for name, plan in plans.items() if name != "refused"]
        found["plans"] = table(["solver", f"memory of a process, {forecast.CORES} workers", "most of it"], lines)
    return found


def fill(path, found):
    """Replaces what stands between `<!-- table NAME -->` and `<!-- end -->`."""
    text = path.read_text()
    for name, body in found.items():
        text = re.sub(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", lambda hit: f"{hit[1]}{body}\n{hit[2]}", text, flags=re.S)
    path.write_text(text)


def undisturbed(run):
    """A run with its seconds as if its threads had never waited for a core: all stages shrunk alike, to the user time of its threads."""
    threads = min(run.get("workers", 2) * run.get("processes", 1), os.cpu_count() or 1)
    share = min(1.0, run["user"] / (run["wall"] * threads))
    return run | {"wall": run["wall"] * share, "seconds": {stage: seconds * share for stage, seconds in run["seconds"].items()}}


def machine(document, by_processor):
    place, options = document["machine"], document["options"]
    loads = place["loads"]
    given = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in document.get("given", {}).items())
    given = f" Sizes other than the default: `{given}`." if given else ""
    shrunk = " The machine did other work: seconds are shrunk to the user time of a run's threads, all stages of a run alike, and say nothing of waiting." if by_processor else ""
    return (
        f"{document['date']}, {place['processor']}, {place['cpus']} cores, {place['platform']}; load (1 minute, {place['cpus']} cores) {min(loads):.1f} to {max(loads):.1f} while it ran; "
        f"least of {options['repeats']} runs, of two in long parts; {document['minutes']:.0f} minutes.{given}{shrunk}"
    )


def longest(runs):
    """Those of the runs with most iterations."""
    most = max(run["iterations"] for run in runs)
    return [run for run in runs if run["iterations"] == most]


def exponents(parts):
    """Exponents of cost, and the targets."""
    few_algebra, bites = without_algebra(parts["centers"])
    gram_n = [run for run in parts["gram"] if run["m"] == min(run["m"] for run in parts["gram"])]
    gram_m = [run for run in parts["gram"] if run["n"] == statistics.mode(run["n"] for run in parts["gram"])]
    lines = []

    def line(what, x, runs, value, target=""):
        if len(runs) < 2:
            return
        runs = sorted(runs, key=lambda run: run[x])
        fitted = exponent([run[x] for run in runs], [value(run) for run in runs])
        error = "" if fitted["error"] is None else f" +- {fitted['error']:.3f}"
        span = f"{runs[0][x]:,} to {runs[-1][x]:,}"
        lines.append([what, x, span, f"{fitted['value']:.3f}{error}", f"{fitted['last']:.3f}", target])

    whole, solve, user = (lambda run: run["wall"]), (lambda run: run["seconds"]["solve"]), (lambda run: run["user"])
    line("pcg, whole fit, seconds", "n", parts["rows"], whole, "at most 1.02")
    line("pcg, whole fit, processor seconds", "n", parts["rows"], user, "at most 1.02")
    line("pcg, solve, seconds", "n", parts["rows"], solve, "at most 1.02")
    line("gram, whole fit, seconds", "n", gram_n, whole, "at most 1.02")
    passes = rates.slopes(parts["centers"])
    line("pcg, an iteration, seconds", "m", passes, lambda slope: slope["pass"], "at most 1.1")
    line(f"pcg, solve while the preconditioner is below a tenth of it, seconds {bites}", "m", few_algebra, solve, "at most 1.1")
    line("pcg, solve, all, seconds", "m", longest(parts["centers"]), solve)
    line("pcg, solve, all, processor seconds of the fit", "m", longest(parts["centers"]), user)
    line("gram, pass, seconds", "m", gram_m, lambda run: run["seconds"]["gram"])
    line("pcg, an iteration, seconds", "d", rates.slopes(parts["features"]), lambda slope: slope["pass"])
    line("pcg, an iteration, seconds", "t", rates.slopes(parts["targets"]), lambda slope: slope["pass"])
    return table(["cost", "in", "from, to", "exponent", "last step alone", "target"], lines)


def without_algebra(runs):
    """Runs of the sweep in m whose preconditioner took less than a tenth of the solve, and where that ends."""
    rest = {slope["m"]: slope["rest"] for slope in rates.slopes(runs)}
    kept = [run for run in longest(runs) if run["m"] in rest and rest[run["m"]] < 0.1 * run["seconds"]["solve"]]
    iterations, rows = longest(runs)[0]["iterations"], longest(runs)[0]["n"]
    return kept, f"({rows:,} rows, {iterations} iterations)"


def sweeps(parts):
    lines = []
    for run in parts["rows"]:
        lines.append(["n", f"{run['n']:,}", f"{run['m']:,}", *times(run)])
    for run in longest(parts["centers"]):
        lines.append(["m", f"{run['n']:,}", f"{run['m']:,}", *times(run)])
    return table(["sweep in", "n", "m", "whole fit, s", "solve, s", "processor, s", "G entries", "GB read", "peak, MiB"], lines)


def times(run):
    report = run["report"]
    numbers = (run["wall"], run["seconds"]["solve"], run["user"], report["kernel_entries"] / 1e9, report["bytes_read"] / 1e9, report["peak_rss_bytes"] / 2**20)
    return [figure(number) for number in numbers]


def workers(parts):
    one, two = sorted(parts["workers"], key=lambda run: run["workers"])
    ratio = one["seconds"]["solve"] / two["seconds"]["solve"]
    probes = parts["probe"]
    lines = [["solve", figure(one["seconds"]["solve"]), figure(two["seconds"]["solve"]), f"{ratio:.3f}", "", ""]]
    if "1" in probes and "2" in probes:
        for name in sorted(probes["1"]):
            reached = probes["2"][name] / probes["1"][name]
            kind = {"peak_f32": "multiply-adds, f32", "peak_f64": "multiply-adds, f64"}.get(name, f"K v, {name.replace('_', ' ')}")
            target = "at least 97 %" if name.startswith("peak") else ""
            lines.append([kind, f"{probes['1'][name] / 1e9:.3g} G/s", f"{probes['2'][name] / 1e9:.3g} G/s", f"{reached:.3f}", f"{100 * ratio / reached:.1f} %", target])
    return table(["workers, or threads of the probe", "one", "two", "two against one", "solve's ratio of this", "target"], lines)


def out_of_core(parts):
    base = next(run for run in parts["memory"] if run["place"] == "memory")
    lines = []
    for run in parts["memory"]:
        more = [percent(run[name] / base[name] - 1) for name in ("wall", "user")]
        lines.append([run["place"], f"{run['memory'] / 2**30:.1f} GiB", figure(run["wall"]), figure(run["seconds"]["solve"]), figure(run["user"]), *more, "" if run is base else "at most +5 %"])
    run = base
    what = f"rows between passes ({run['n']:,} x {run['d']}, m = {run['m']:,}, {run['iterations'] + 2} passes)"
    return table([what, "--memory", "whole fit, s", "solve, s", "processor, s", "more seconds", "more processor seconds", "target"], lines)


def prediction(parts):
    run = parts["predict"][0]
    rate = run["n"] * run["m"] / run["wall"]
    lines = [[f"predict, Parquet to Parquet, {run['n']:,} rows", f"{rate / 1e9:.3g}", "", ""]]
    for sums in ("f64_sums", "f32_sums"):
        if limit := parts["probe"].get("2", {}).get(f"{sums} d=10"):
            lines.append([f"K v, {sums.replace('_', ' ')}, two threads (the probe)", f"{limit / 1e9:.3g}", f"{100 * rate / limit:.0f} %", "at least 80 %"])
    return table([f"m = {run['m']:,}, d = 10", "G entries/s", "predict's share", "target"], lines)


UNITS = {
    "entry": (1e9, "ns an entry of a pass (pcg), a core, d = 0"),
    "feature": (1e9, "ns more for a feature"),
    "group": (1e9, "ns more for each group of up to eight targets, where there are several"),
    "vectors": (1e9, "ns per m^2 of an iteration, a process: products with R, R', K_mm and the preconditioner"),
    "passing": (1e3, "ms of a pass without rows"),
    "joining": (1e3, "ms more of it for each further process"),
    "algebra": (1e12, "s of 10^12 flops of m x m algebra, a core"),
    "single": (1e9, "ns of an f64 entry of K_mm or of sampled rows, which one thread forms, copies and weighs"),
    "eigen": (1e9, "ns per m^3 of the gram solve, a core"),
    "gram_entry": (1e9, "ns of an entry that enters a Gram, a core"),
    "gram_flop": (1e12, "s of 10^12 of the n m^2 of a Gram, a core"),
    "profile": (1e9, "ns of a value that is profiled, a core"),
    "decode": (1e9, "ns of a value that is decoded and encoded, a core"),
    "choose": (1e9, "ns of a row that uniform centers are chosen from, a core"),
    "start": (1e3, "ms of the process beside its stages"),
    "wire": (1e9, "ns of a byte of sums on its way between workers"),
    "value_bytes": (1.0, "bytes of a value in Parquet"),
}


def rates_table(measured):
    return table(["rate", "value", "of what"], [[f"`{name}`", figure(getattr(measured, name) * scale), unit] for name, (scale, unit) in UNITS.items()])


def validation(parts, measured):
    """Predicted beside measured seconds of runs that no rate was taken from."""
    lines, errors = [], {"one process": [], "several processes": []}
    for run, cost in costs([*parts.get("workers", []), *parts["processes"]], measured):
        solve = "gram" if run["solver"] == "gram" else "solve"
        pairs = [(cost.total(solve), run["seconds"][solve]), (cost.total(), run["wall"])]
        errors["one process" if run["processes"] == 1 else "several processes"].append([abs(predicted / found - 1) for predicted, found in pairs])
        lines.append([*shape_cells(run), *compared(pairs), figure(run["user"])])
    head = [*SHAPE_HEAD, "pass or solve, predicted", "measured", "error", "whole fit, predicted", "measured", "error", "processor, s"]
    middle, most = (lambda found, i: 100 * statistics.median(error[i] for error in found)), (lambda found, i: 100 * max(error[i] for error in found))
    said = "; ".join(
        f"{kind}: median {middle(found, 0):.0f} % and at most {most(found, 0):.0f} % (pass or solve), {middle(found, 1):.0f} % and {most(found, 1):.0f} % (whole fit)"
        for kind, found in errors.items()
        if found
    )
    return table(head, lines), f"Errors of the model, without sign: {said}."


def counts(parts, measured):
    """Predicted beside counted entries, flops, bytes read and bytes between processes."""
    lines = []
    for run, cost in costs([*parts.get("memory", []), *parts["processes"]], measured):
        report = run["report"]
        pairs = [(cost.entries / 1e9, report["kernel_entries"] / 1e9), (cost.flops / 1e12, report["flops"]["achieved"] / 1e12), (cost.read / 1e6, report["bytes_read"] / 1e6)]
        several = run["processes"] > 1 and run["loopback"]
        sent = compared([(cost.network / 1e6, run["loopback"] / 1e6)]) if several else ["", "", ""]
        lines.append([*shape_cells(run), run.get("place", "memory"), *compared(pairs), *sent])
    head = [*SHAPE_HEAD, "rows in"]
    for what in ("G entries", "Tflop", "MB read", "MB between processes"):
        head += [f"{what}, predicted", "counted", "error"]
    return table(head, lines)


SHAPE_HEAD = ["solver", "n", "m", "t", "processes x workers"]


def shape_cells(run):
    return [run["solver"], f"{run['n']:,}", f"{run['m']:,}", run["t"], f"{run['processes']} x {run['workers']}"]


def compared(pairs):
    """Predicted, measured and the error of each pair."""
    return [cell for predicted, found in pairs for cell in (figure(predicted), figure(found), percent(predicted / found - 1))]


def costs(runs, measured):
    """Each run with its cost by the model, on this machine: processes share its cores."""
    cores = os.cpu_count() or 1
    for run in runs:
        cluster = model.Cluster(run["processes"], run["workers"], cores=min(run["workers"], cores / run["processes"]))
        problem = rates.problem_of(run)
        yield run, model.fit(problem, cluster, measured)
