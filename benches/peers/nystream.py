"""nystream itself: the program named by NYSTREAM, and its kernel tiles by the bench `threads`."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from common import HERE, seconds

CONVERGED_OR_LIMIT = (0, 3)  # 3: stopped at the iterations asked for


class Program:
    def __init__(self, threads, folder):
        self.path, self.threads, self.folder = os.environ.get("NYSTREAM", "nystream"), str(threads), Path(folder)
        if not shutil.which(self.path):
            raise SystemExit(f"{self.path} is no program: set NYSTREAM to nystream's path")

    def run(self, command, *options, **more):
        """Wall seconds, the process's start and end included, and the report."""
        more = [word for name, value in more.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        words = [self.path, command, *options, *more, "--format", "json", "--quiet", "--no-config"]
        done = None

        def go():
            nonlocal done
            done = subprocess.run(words, capture_output=True, text=True)

        wall = seconds(go)
        if done.returncode not in CONVERGED_OR_LIMIT:
            raise SystemExit(f"{' '.join(words)}\n{done.stderr}")
        return wall, json.loads(done.stdout)

    def fit(self, train, target, repeats, **options):
        """Of the fastest fit by the seconds of its solve."""
        model = self.folder / "model.nys"
        runs = []
        for _ in range(repeats):
            model.unlink(missing_ok=True)
            runs.append(self.run("fit", data=train, target=target, split="none", workers=self.threads, out=model, **options))
        wall, report = min(runs, key=lambda run: run[1]["seconds"]["solve"])
        return {"wall": min(wall for wall, _ in runs), "report": report, "seconds": report["seconds"]["solve"], "residual": report["certificate"]["residual"]}

    def error(self, test):
        """Standardised root mean square error of the last model."""
        _, report = self.run("evaluate", model=self.folder / "model.nys", data=test)
        return report["standardized_rmse"]

    def centers(self, train, target, m, **options):
        """m uniform centers as a file, and the seconds it took to choose them."""
        out = self.folder / "centers.parquet"
        out.unlink(missing_ok=True)
        _, report = self.run("dictionary", data=train, target=target, select="uniform", centers=m, workers=self.threads, out=out, **options)
        return out, report["seconds"]["dictionary"]


def tiles(threads, repeats, d=0, rows=0, centers=0, folder=None):
    """Multiply-add peaks and, where d > 0, seconds of a kernel product; or {"skipped": why}."""
    words = ["--threads", threads, "--repeats", repeats, "--rows", rows, "--centers", centers, "--d", d]
    words += ["--data", folder] if folder else []
    built = os.environ.get("THREADS_BENCH")
    command = [built] if built else ["cargo", "bench", "--locked", "-q", "-p", "nystream-kernels", "--bench", "threads", "--"]
    try:
        done = subprocess.run(command + [str(word) for word in words], capture_output=True, text=True, cwd=HERE.parents[1])
    except OSError as error:
        return {"skipped": f"nystream's bench: {error}"}
    if done.returncode:
        return {"skipped": f"nystream's bench: {done.stderr.strip().splitlines()[-1:]}"}
    peak, *product = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return peak | ({"product": product[0]} if product else {})
