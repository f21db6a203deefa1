"""nystream as a child process, or several joined on loopback: wall seconds, user seconds, bytes on the loopback interface, and the report."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))
from nystream import CONVERGED_OR_LIMIT  # noqa: E402

ALWAYS = ("--format", "json", "--quiet", "--no-config")


class Program:
    """The program named by NYSTREAM, and a folder for what it reads and writes."""

    def __init__(self, folder):
        self.path, self.folder = os.environ.get("NYSTREAM", "nystream"), Path(folder)
        if not shutil.which(self.path):
            raise SystemExit(f"{self.path} is no program: set NYSTREAM to nystream's path")
        self.made = set()

    def data(self, rows, features):
        """Files of the synthetic source friedman1, made when first asked for."""
        folder = self.folder / f"friedman1.{rows}.{features}"
        if folder not in self.made:
            self.run("datasets", "make", "friedman1", rows=rows, features=features, seed=1, out=folder)
            self.made.add(folder)
        return folder

    def forget(self, folder):
        shutil.rmtree(folder, ignore_errors=True)
        self.made.discard(folder)

    def run(self, *command, processes=1, **options):
        """One run. `processes` > 1: as many on loopback, each with the workers of `options`."""
        words = [self.path, *command, *spelled(options), *ALWAYS]
        lines = [words] if processes == 1 else joined(words, processes, self.folder)
        before, start = loopback_bytes(), time.perf_counter()
        children = [start_child(line) for line in lines]
        ends = [end_child(child) for child in children]
        wall = time.perf_counter() - start
        for code, _, _, errors in ends:
            if code not in CONVERGED_OR_LIMIT:
                raise RuntimeError(f"{' '.join(words)}\nended with code {code}: {errors.strip()}")
        return {
            "wall": wall,
            "user": sum(user for _, user, _, _ in ends),
            "loopback": loopback_bytes() - before,
            "report": json.loads(ends[0][2]),
        }

    def refusal(self, *command, **options):
        """Exit code and last message of a run that is expected to be refused."""
        code, _, _, errors = end_child(start_child([self.path, *command, *spelled(options), *ALWAYS]))
        return {"code": code, "message": errors.strip().splitlines()[-1] if errors.strip() else ""}

    def fit(self, data, processes=1, **options):
        """A fit without tuning and without held-out rows: only what scales."""
        fixed = {"target": "y", "kernel": "gaussian", "bandwidth": "1x", "ridge": 1e-7, "select": "uniform", "split": "none"}
        model = self.folder / "model.nys"
        model.unlink(missing_ok=True)
        return self.run("fit", processes=processes, data=data, out=model, **(fixed | options))


def spelled(options):
    """Options as words; a list is an option given several times."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
    return [word for name, values in lists.items() for value in values for word in (f"--{name.replace('_', '-')}", str(value))]


def joined(words, processes, folder):
    """The line of every process of a job on loopback."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(processes)]
    hosts = folder / "hosts"
    hosts.write_text("".join(f"127.0.0.1:{held.getsockname()[1]}\n" for held in sockets))
    for held in sockets:
        held.close()
    return [[*words, "--hosts", str(hosts), "--process", str(index)] for index in range(processes)]


def start_child(words):
    errors = tempfile.TemporaryFile("w+")
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True), errors


def end_child(started):
    """Exit code, user seconds, stdout and stderr."""
    child, errors = started
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    errors.seek(0)
    with errors:
        return child.returncode, usage.ru_utime, out, errors.read()


def loopback_bytes():
    """Bytes that the loopback interface has sent, those of others too; 0 where the system does not tell."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("lo:")), 0)


def interleaved(cases, repeats, say):
    """Runs all `cases` (name: callable) in turn, `repeats` times over, so that a disturbance meets all alike. Of each, the least of every figure."""
    found = {name: [] for name in cases}
    for _ in range(repeats):
        for name, run in cases.items():
            found[name].append(run())
            say(name, found[name][-1])
    return {name: least(runs) for name, runs in found.items()}


def least(runs):
    """Least wall and user seconds, least seconds of each stage, least bytes; everything else of the first report, where all agree."""
    report = runs[0]["report"]
    stages = {stage: min(run["report"]["seconds"][stage] for run in runs) for stage in report["seconds"]}
    figures = {name: min(run[name] for run in runs) for name in ("wall", "user", "loopback")}
    return figures | {"seconds": stages, "report": {name: value for name, value in report.items() if name in KEPT}}


KEPT = (
    "rows", "centers", "features_encoded", "targets", "iterations", "passes", "kernel_entries", "flops", "bytes_read", "peak_rss_bytes", "workers", "processes", "solver", "notes", "stopped",
    "predicted", "certificate",
)
