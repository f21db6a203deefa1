"""How the cost of a fit grows with rows, centers, features, targets, workers and processes: see README.md.

NYSTREAM=target/release/nystream python benches/scaling/scaling.py --out scaling.json
"""

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path

import forecast
import tables
from runs import Program, interleaved, least

import common  # of benches/peers, which runs has put on the path
import nystream

TINY = 8192  # rows of four sum blocks


@dataclass
class Sizes:
    """Rows and so on of every part. All can be set on the command line."""

    n: tuple = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
    n_centers: int = 1000
    gram_n: tuple = (30_000, 100_000, 300_000, 1_000_000)
    gram_m: tuple = (500, 1000, 2000)
    m: tuple = (256, 512, 1024, 2048, 4096)
    m_rows: int = 1_000_000
    d: tuple = (5, 10, 30, 90)
    t: tuple = (1, 2, 4, 8, 16)
    rows: int = 300_000  # of the sweeps in d and t
    centers: int = 1024
    algebra_m: tuple = (1024, 2048, 4096)
    worker_rows: int = 1_000_000
    memory_rows: int = 20_000_000
    memory_centers: int = 2000
    predict_rows: int = 4_000_000
    predict_centers: int = 4096
    processes: tuple = (1, 2, 3, 4)
    process_rows: int = 200_000
    process_centers: int = 1536
    exchange_m: tuple = (1000, 2000)


QUICK = Sizes(
    n=(20_000, 40_000, 80_000), n_centers=100, gram_n=(20_000, 40_000), gram_m=(100, 200, 400), m=(64, 128, 256), m_rows=40_000, d=(5, 10, 20), t=(1, 2, 4), rows=30_000, centers=256,
    algebra_m=(256, 512, 768), worker_rows=50_000, memory_rows=200_000, memory_centers=100, predict_rows=100_000, predict_centers=256, processes=(1, 2), process_rows=30_000, process_centers=256, exchange_m=(300, 400),
)  # fmt: skip

PARTS = "plans,probe,rows,centers,features,targets,algebra,gram,exchange,workers,memory,predict,processes"
FEW, MANY = 3, 11  # iterations of the two runs that tell what an iteration takes


class Scaling:
    def __init__(self, options, sizes, folder):
        self.options, self.sizes, self.parts = options, sizes, {}
        self.program = Program(folder)

    def say(self, name, run):
        print(f"{name}: {run['wall']:.2f} s, {run['user']:.2f} user", flush=True)

    def case(self, n, m, d=10, t=1, iterations=FEW, workers=2, processes=1, solver="pcg", data=None, **options):
        """A shape and how it is run. `data`: features of the files where more columns are targets or left out."""
        shape = {"n": n, "m": m, "d": d, "t": t, "iterations": iterations, "workers": workers, "processes": processes, "solver": solver}
        files = self.program.data(n, data or d)
        if data:
            extra = [f"x{i}" for i in range(d, data)]
            options |= {"target": ["y", *extra[: t - 1]], "drop": extra[t - 1 :]}
            options = {name: value for name, value in options.items() if value != []}
        if solver == "pcg":
            options |= {"iterations": iterations, "tolerance": 1e-30}
        return shape, lambda: self.program.fit(files, centers=m, workers=workers, processes=processes, solver=solver, **options)

    @property
    def fewer(self):
        """Repeats of long parts."""
        return min(2, self.options.repeats)

    def sweep(self, cases, repeats=None):
        """Runs cases in turn; what is measured of each beside its shape."""
        shapes = {tables.title(shape): shape for shape, _ in cases}
        measured = interleaved({tables.title(shape): run for shape, run in cases}, repeats or self.options.repeats, self.say)
        return [shape | measured[name] for name, shape in shapes.items()]

    def plans(self):
        """What the program itself plans for the forecast's centers, and what it says with its defaults."""
        shape = {"target": "y", "kernel": "gaussian", "bandwidth": "1x", "ridge": 1e-7, "select": "uniform", "centers": forecast.PROBLEM.centers}
        source = f"synth:friedman1?d={forecast.PROBLEM.features}&rows="
        out = self.program.folder / "planned.nys"
        found = {"refused": self.program.refusal("fit", data=f"{source}{forecast.PROBLEM.rows}", solver="pcg", out=out, **shape)}
        for solver in ("pcg", "gram", "eigenpro"):
            plan = self.program.run("fit", "--dry-run", data=f"{source}1000000", solver=solver, memory="4096GiB", max_flops=1e20, workers=forecast.CORES, out=out, **shape)["report"]
            found[solver] = {"memory": sum(use["bytes"] for use in plan["memory"]), "largest": max(plan["memory"], key=lambda use: use["bytes"])["name"]}
        return found

    def probe(self):
        """The machine's limits, by the probes of benches/peers."""
        size = (64 << 20) if self.options.quick else (512 << 20)
        jobs = {"memory": {"bytes": size}, "disk": {"bytes": size, "folder": str(self.program.folder)}}
        found = {name: common.run_job("limits", job | {"peer": name}, 2, 600).get("bytes_per_second") for name, job in jobs.items()}
        m, features = (1024, (10,)) if self.options.quick else (4096, (10, 30, 90))
        for threads in (1, 2, 1, 2):
            for d in features:
                tile = nystream.tiles(threads, 3 if self.options.quick else 7, d, 8 * m, m)
                if "skipped" in tile:
                    print(f"probe skipped: {tile['skipped']}", flush=True)
                    return found
                keep_best(found.setdefault(str(threads), {}), tile, 8 * m * m)
        return found

    def rows(self):
        sizes, found = self.sizes, []
        for n in sizes.n:
            found += self.sweep([self.case(n, sizes.n_centers)])
            if n > 1_000_000:
                self.program.forget(self.program.data(n, 10))
        return found

    def centers(self):
        return self.sweep([self.case(self.sizes.m_rows, m, iterations=i) for m in self.sizes.m for i in (FEW, MANY)], self.fewer)

    def features(self):
        return self.sweep([self.case(self.sizes.rows, self.sizes.centers, d=d, iterations=i) for d in self.sizes.d for i in (FEW, MANY)])

    def targets(self):
        data = 9 + max(self.sizes.t)
        return self.sweep([self.case(self.sizes.rows, self.sizes.centers, t=t, iterations=i, data=data) for t in self.sizes.t for i in (FEW, MANY)], self.fewer)

    def algebra(self):
        """Few rows: what is left is m x m."""
        return self.sweep([self.case(20_000, m, iterations=i) for m in self.sizes.algebra_m for i in (FEW, 2 * MANY)], self.fewer)

    def gram(self):
        shapes = {(n, self.sizes.gram_m[0]) for n in self.sizes.gram_n} | {(self.sizes.gram_n[1], m) for m in self.sizes.gram_m}
        return self.sweep([self.case(n, m, solver="gram") for n, m in sorted(shapes)], self.fewer)

    def exchange(self):
        """Passes without work, and Grams of few rows, whose sums are most of what several processes do more than one."""
        passes = [self.case(TINY, 64, iterations=i, workers=w, processes=p) for p, w in self.crews() for i in (FEW, 40)]
        sums = [self.case(TINY, m, workers=w, processes=p, solver="gram") for m in self.sizes.exchange_m for p, w in self.crews()[:2]]
        return self.sweep(passes + sums)

    def crews(self):
        """Processes and workers of each: the cores of this machine at most for one and two processes."""
        return [(p, 2 if p == 1 else 1) for p in self.sizes.processes]

    def workers(self):
        return self.sweep([self.case(self.sizes.worker_rows, self.sizes.centers, iterations=MANY, workers=w) for w in (1, 2)])

    def memory(self):
        """In memory, from a cache on disk, and decoded again in every pass."""
        n, m = self.sizes.memory_rows, self.sizes.memory_centers
        row = 4 * 10 + 8 + 48
        within, beyond = max(4 * n * row, 1 << 30), max(n * row * 2, 160 << 20)
        ways = {"memory": {"memory": within}, "disk": {"memory": beyond}, "decoded again": {"memory": beyond, "disk_limit": "1MiB"}}
        cases = [self.case(n, m, iterations=1, **way) for way in ways.values()]
        named = [(shape | {"place": place, "memory": way["memory"]}, run) for (place, way), (shape, run) in zip(ways.items(), cases)]
        found = self.sweep(named, self.fewer)
        self.program.forget(self.program.data(n, 10))
        return found

    def predict(self):
        """From Parquet to Parquet."""
        n, m, program = self.sizes.predict_rows, self.sizes.predict_centers, self.program
        _, fit = self.case(50_000, m, iterations=1)
        fit()
        model = program.folder / "predict.nys"
        (program.folder / "model.nys").rename(model)
        files, out = program.data(n, 10), program.folder / "predictions.parquet"

        def run():
            out.unlink(missing_ok=True)
            return program.run("predict", model=model, data=files, out=out, workers=2)

        runs = [run() for _ in range(self.options.repeats + 1)]
        self.say("predict", runs[-1])
        out.unlink()
        program.forget(files)
        return [{"n": n, "m": m, "d": 10, "t": 1} | least(runs)]

    def processes(self):
        """What the model is held against: shapes that no rate was taken from."""
        n, m = self.sizes.process_rows, self.sizes.process_centers
        shapes = [(n, m, 1), (n, m // 2, 6)]
        crews = [(1, 1), *self.crews()]
        cases = [self.case(n, m, t=t, iterations=7, workers=w, processes=p, data=10 + 5 if t > 1 else None) for n, m, t in shapes for p, w in crews]
        grams = [self.case(n // 2, m * 3 // 4, workers=w, processes=p, solver="gram") for p, w in crews]
        return self.sweep(cases + grams, self.fewer)


def keep_best(best, tile, entries):
    """The greatest rates of several probes."""
    found = {"peak_f32": tile["peak_f32"], "peak_f64": tile["peak_f64"]}
    product = tile["product"]
    found |= {f"{sums} d={product['d']}": entries / product[sums] for sums in ("f32_sums", "f64_sums")}
    for name, value in found.items():
        best[name] = max(value, best.get(name, 0.0))


def sized(options):
    """The sizes: of --quick or the default, and what the command line says otherwise."""
    sizes = QUICK if options.quick else Sizes()
    for field in fields(Sizes):
        if (given := getattr(options, field.name)) is not None:
            numbers = tuple(int(float(number)) for number in given.split(","))
            setattr(sizes, field.name, numbers if isinstance(getattr(sizes, field.name), tuple) else numbers[0])
    return sizes


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", help="JSON file of everything measured; parts that it holds and this run leaves out are kept")
    parser.add_argument("--quick", action="store_true", help="small sizes: a check that all parts run, no figures")
    parser.add_argument("--only", default=PARTS, help=f"parts to run [{PARTS}]")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the least seconds count; of long parts two at most")
    parser.add_argument("--scratch", help="folder for made data [default: the system's temporary folder]")
    parser.add_argument("--markdown", metavar="JSON", help="run nothing: print the tables of docs/scaling.md from such a file")
    parser.add_argument("--by-processor", action="store_true", help="with --markdown: seconds shrunk to processor time, for a run on a machine that did other work")
    parser.add_argument("--fill", metavar="FILE", help="with --markdown: put the tables in their places in FILE instead")
    for field in fields(Sizes):
        parser.add_argument(f"--{field.name.replace('_', '-')}", help=f"default {field.default}")
    return parser.parse_args()


def measure(options):
    out = Path(options.out) if options.out else None
    document = json.loads(out.read_text()) if out and out.exists() else {"parts": {}}
    # A document that is continued keeps what it tells of earlier runs.
    start, loads = time.time() - 60 * document.get("minutes", 0), [*document.get("machine", {}).get("loads", []), os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        run = Scaling(options, sized(options), folder)
        for part in options.only.split(","):
            document["parts"][part] = getattr(run, part)()
            loads.append(os.getloadavg()[0])
            if out:
                write(document, options, loads, start, out)
    write(document, options, loads, start, out)
    return document


def write(document, options, loads, start, out):
    machine = {"platform": f"{platform.system()} {platform.machine()}", "processor": processor(), "cpus": os.cpu_count(), "loads": loads}
    given = {field.name: value for field in fields(Sizes) if (value := getattr(options, field.name)) is not None}
    document |= {"date": str(date.today()), "machine": machine, "given": document.get("given", {}) | given, "options": vars(options), "minutes": (time.time() - start) / 60}
    if out:
        out.write_text(json.dumps(document, indent=1) + "\n")


def processor():
    """Its name and instruction sets that matter here, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    wide = any("avx512f" in line for line in lines if line.startswith("flags"))
    return name + (", AVX-512" if wide else "")


def main():
    options = arguments()
    document = json.loads(Path(options.markdown).read_text()) if options.markdown else measure(options)
    found = tables.all_tables(document, options.by_processor)
    if options.fill:
        tables.fill(Path(options.fill), found)
    else:
        for name, text in found.items():
            print(f"\n## {name}\n\n{text}")


if __name__ == "__main__":
    main()
