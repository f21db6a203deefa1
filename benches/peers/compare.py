"""nystream beside other programs, on the same data with the same number of threads, in one run: see README.md.

NYSTREAM=target/release/nystream python benches/peers/compare.py --data FOLDER --out ratios.json
"""

import argparse
import glob
import json
import os
import platform
import tempfile
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

import nystream
import products
from common import run_job

PRODUCT_FEATURES = (10, 30, 90, 784)
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "pykeops", "lightgbm", "xgboost")
# Bandwidth and ridge are those that nystream's `auto` chose once for the Gaussian kernel.
REGRESSIONS = {
    "kin40k": {"target": "y", "bandwidth": 1.94, "ridge": 5.6e-8},
    "protein": {"target": "log1p_rmsd", "bandwidth": 0.779, "ridge": 3.2e-7},
}
ENTRY = 11  # operations of an entry beside its multiply-adds, as the kernel tiles count them


class Comparison:
    def __init__(self, options, folder):
        self.options, self.folder, self.rows = options, folder, []
        self.program = nystream.Program(options.threads, folder)
        self.limits = {}

    def job(self, module, **job):
        return run_job(module, job | {"repeats": self.options.repeats}, self.options.threads, self.options.limit)

    def probe(self):
        """The machine's limits: the best of every probe of the run, which others may disturb."""
        size = (64 << 20) if self.options.quick else (512 << 20)
        found = {
            "memory": self.job("limits", peer="memory", bytes=size),
            "disk": self.job("limits", peer="disk", bytes=size, folder=str(self.folder)),
        }
        found = {name: limit.get("bytes_per_second") for name, limit in found.items()}
        peaks = nystream.tiles(self.options.threads, 5)
        if "skipped" in peaks:
            print(f"no multiply-add peak: {peaks['skipped']}", flush=True)
        self.limit(f32=peaks.get("peak_f32"), f64=peaks.get("peak_f64"), **found)

    def limit(self, **found):
        for name, limit in found.items():
            if limit:
                self.limits[name] = max(limit, self.limits.get(name, 0))

    def add(self, case, who, result, **work):
        """A line of the table. `work`: flops (f32, f64) and bytes (memory, disk) that no way of doing it can avoid."""
        if "skipped" in result:
            print(f"{case}: {who} skipped: {result['skipped']}", flush=True)
        else:
            print(f"{case}: {who}: {result['seconds']:.4g} s", flush=True)
        self.rows.append({"case": case, "who": who, "work": work} | result)

    def products(self):
        n, m = (8192, 1024) if self.options.quick else (65536, 4096)
        random = np.random.default_rng(1)
        for d in PRODUCT_FEATURES:
            for name, shape in {"x": (n, d), "z": (m, d), "v": (m,)}.items():
                random.standard_normal(shape, dtype="f4").tofile(self.folder / f"{name}.{d}.f32")
        for d in PRODUCT_FEATURES:
            tiles = nystream.tiles(self.options.threads, 2 + self.options.repeats, d, n, m, self.folder)
            case = f"K v, d = {d}"
            work = lambda rows: {"f32": 2.0 * rows * m * (d + ENTRY), "memory": 4.0 * (rows * (d + 1) + m * (d + 1))}
            peers = {name: self.job("products", peer=name, folder=str(self.folder), d=d, rows=n, centers=m) for name in ("numpy", "torch", "scikit-learn", "keops")}
            if product := tiles.get("product"):
                wrong = products.of_nystream({"folder": str(self.folder), "d": d, "rows": n, "centers": m})
                self.limit(f32=tiles["peak_f32"], f64=tiles["peak_f64"])
                for who, sums in (("nystream", "f32_sums"), ("nystream, f64 sums", "f64_sums")):
                    self.add(case, who, {"seconds": product[sums], "entries_per_second": n * m / product[sums]} | {"error": wrong[sums]}, **work(n))
            else:
                self.add(case, "nystream", tiles)
            for name, result in peers.items():
                # Slow peers had fewer rows: seconds of all of them by their rate.
                if "rows" in result:
                    result["seconds"] *= n / result["rows"]
                self.add(case, name, result, **work(n))

    def data(self, name):
        pair = [f"{self.options.data}/{name}.{part}.parquet" for part in ("train", "test")]
        missing = [path for path in pair if not os.path.exists(path)]
        if missing:
            print(f"{name} skipped: no {missing[0]}", flush=True)
        return None if missing else pair

    def solves(self):
        m, iterations = (500, 5) if self.options.quick else (4000, 20)
        for name, settings in REGRESSIONS.items():
            if not (pair := self.data(name)):
                continue
            (train, test), kernel = pair, {"bandwidth": settings["bandwidth"], "ridge": settings["ridge"]}
            centers, choosing = self.program.centers(train, settings["target"], m, kernel="gaussian", **kernel)
            case = f"solve {name}, m = {m}"
            pcg, by_pcg = None, {"solver": "pcg", "iterations": iterations, "tolerance": 1e-30}
            forms = {"nystream": by_pcg | {"preconditioner": "centers"}, "nystream, mixed": by_pcg | {"preconditioner": "mixed"}, "nystream, gram": {"solver": "gram"}}
            for who, more in forms.items():
                fit = self.program.fit(train, settings["target"], self.options.repeats, kernel="gaussian", select=f"file:{centers}", **kernel, **more)
                n = fit["report"]["rows"]
                entries = 2.0 * n * m * (fit["report"]["features_encoded"] + ENTRY)
                cubes = {"f64": m**3, "f32": (iterations + 1) * (entries + 4.0 * n * m)}
                work = cubes if "iterations" in more else {"f32": entries, "f64": float(n) * m**2 + m**3}
                fit |= {"error": self.program.error(test), "how": f"centers {choosing:.2g} s, whole fit {fit['wall']:.3g} s"}
                if pcg is None:
                    pcg, reached = work, fit["error"]
                self.add(case, who, fit, **work)
            least = (np.inf, "", 4, False)
            for size, stored in ((4, False), (4, True), (8, False), (8, True)):
                who = f"Falkon in torch, f{8 * size}{', K kept' if stored else ''}"
                job = settings | {"train": train, "test": test, "centers": str(centers), "iterations": iterations, "size": size, "stored": stored}
                fits = n * m * size * stored <= self.options.memory * 2**30
                result = self.job("solves", peer="falkon", **job) if fits else {"skipped": "K does not fit --memory"}
                self.add(case, who, result, **pcg)
                least = min(least, (result.get("seconds", np.inf), who, size, stored))
            # The fastest again, with the iterations it takes to come within 1 % of the same test error.
            _, who, size, stored = least
            if who:
                self.add(case, f"{who}, equal error", self.job("solves", peer="falkon", **job | {"size": size, "stored": stored, "until": 1.01 * reached}))

    def nystroem(self):
        m = 300 if self.options.quick else 2000
        for name, settings in REGRESSIONS.items():
            if not (pair := self.data(name)):
                continue
            (train, test), kernel = pair, {"bandwidth": settings["bandwidth"], "ridge": settings["ridge"]}
            case = f"fit {name}, m = {m}"
            fit = self.program.fit(train, settings["target"], self.options.repeats, kernel="gaussian", select="uniform", centers=m, **kernel)
            n, d = fit["report"]["rows"], fit["report"]["features_encoded"]
            work = {"f32": 2.0 * n * m * (d + ENTRY), "f64": float(n) * m**2 + m**3, "disk": os.path.getsize(train)}
            self.add(case, "nystream", fit | {"seconds": fit["wall"], "error": self.program.error(test), "how": fit["report"]["solver"]}, **work)
            for dtype in ("f4", "f8"):
                job = settings | {"train": train, "test": test, "m": m, "dtype": dtype}
                self.add(case, f"scikit-learn, f{8 * int(dtype[1])}", self.job("solves", peer="scikit-learn", **job), **work)

    def auto(self):
        train, test = (f"{self.options.data}/beijing_air/{part}/*.parquet" for part in ("train", "test"))
        files = glob.glob(train)
        if not files:
            print(f"beijing_air skipped: no {train}", flush=True)
            return
        disk, trees = sum(map(os.path.getsize, files)), 50 if self.options.quick else 500
        for centers in ["300"] if self.options.quick else self.options.auto_centers.split(","):
            more = {} if centers == "auto" else {"centers": centers}
            fit = self.program.fit(train, "PM2.5", 1, **more)
            fit |= {"seconds": fit["wall"], "error": self.program.error(test)}
            report = fit["report"]
            fit["how"] = f"{report['centers']} centers, {report['kernel']}, {report['solver']}"
            # Nearly all of it is in f64 (gram).
            self.add("fit beijing_air, auto", "nystream" if centers == "auto" else f"nystream, m = {centers}", fit, f64=report["flops"]["achieved"], disk=disk)
        for name in ("LightGBM", "XGBoost"):
            job = {"train": train, "test": test, "target": "PM2.5", "trees": trees, "repeats": 1}
            self.add("fit beijing_air, auto", name, run_job("trees", job | {"peer": name}, self.options.threads, self.options.limit), disk=disk)

    def finish(self):
        """Shares of the limits and ratios to the first line of each case, which is nystream's."""
        first = {}
        for row in self.rows:
            if "skipped" in row:
                continue
            ours = first.setdefault(row["case"], row)
            row["ratio"] = row["seconds"] / ours["seconds"]
            parts = {name: amount / self.limits[name] / row["seconds"] for name, amount in row["work"].items() if name in self.limits}
            shares = {"multiply-adds": parts.get("f32", 0) + parts.get("f64", 0), "memory": parts.get("memory", 0), "disk": parts.get("disk", 0)}
            row["shares_of_limits"] = {name: share for name, share in shares.items() if share}

    def table(self):
        head = ("case", "program", "seconds", "G entries/s", "test error", "residual", "of limit", "times nystream's", "how")
        lines = [head, ("---",) * len(head)]
        for row in self.rows:
            if "skipped" in row:
                lines.append((row["case"], row["who"], *[""] * 6, f"skipped: {row['skipped']}"))
                continue
            number = lambda name, scale=1.0, form=".3g": f"{row[name] * scale:{form}}" if name in row and row[name] is not None else ""
            shares = row["shares_of_limits"]
            limit = max(shares, key=shares.get, default=None)
            limit = f"{shares[limit]:.2g} {limit}" if limit else ""
            numbers = (number("seconds"), number("entries_per_second", 1e-9), number("error", 1.0, ".4g"), number("residual", 1.0, ".1e"), limit, number("ratio"))
            lines.append((row["case"], row["who"], *numbers, row.get("how", "")))
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def versions():
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="folder with kin40k, protein and beijing_air")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="small sizes: a check that all parts run, no figures")
    parser.add_argument("--only", default="products,solves,nystroem,auto", help="parts to run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the fastest counts")
    parser.add_argument("--auto-centers", default="auto,2000", help="centers of the fits on auto")
    parser.add_argument("--memory", type=float, default=8, help="GiB that a kept K may take")
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which a peer is given up")
    parser.add_argument("--scratch", help="folder for made data and the disk's probe [default: the system's temporary folder]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        run = Comparison(options, Path(folder))
        run.probe()
        for part in options.only.split(","):
            getattr(run, part)()
            run.probe()
        run.finish()
    load = os.getloadavg()
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "load": load}
    document = {"date": str(date.today()), "machine": machine, "options": vars(options), "versions": versions(), "limits": run.limits, "rows": run.rows}
    Path(options.out).write_text(json.dumps(document, indent=1) + "\n")
    units = {"f32": "flop/s f32", "f64": "flop/s f64", "memory": "B/s memory", "disk": "B/s disk"}
    print("\nlimits: " + ", ".join(f"{limit / 1e9:.3g} G{units[name]}" for name, limit in run.limits.items()) + f"; load {load[0]:.1f}\n")
    print(run.table())


if __name__ == "__main__":
    main()
