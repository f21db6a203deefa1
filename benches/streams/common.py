"""What the parts share: streams as files of Arrow, runs of nystream, and rows as its learner sees them."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NYSTREAM = os.environ.get("NYSTREAM", "nystream")

# Columns to predict, files under the folder of data in the order of the stream, and the loss.
SETS = {
    "kin40k": ("y", "kin40k.train.parquet", "squared"),
    "protein": ("log1p_rmsd", "protein.train.parquet", "squared"),
    "keggdirected": ("y", "keggdirected.train.parquet", "squared"),
    "beijing_air": ("PM2.5", "beijing_air/train/Aotizhongxin.parquet", "squared"),
    "acs_income": ("income_gt_50k", "acs_income.train.parquet", "logistic"),
}


def table(folder, name, rows=None):
    """The first rows that have a target, in file order; None where the file is absent."""
    target, path, _ = SETS[name]
    path = Path(folder) / path
    if not path.exists():
        return None
    data = pq.read_table(path)
    data = data.filter(pa.compute.is_valid(data[target]))
    return data.slice(0, rows) if rows else data


def write_stream(data, path):
    """An Arrow IPC stream with keys, as `--input ipc:` takes it."""
    keys = pa.array([str(i) for i in range(data.num_rows)])
    data = data.append_column("key", keys)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as out:
        out.write_table(data, max_chunksize=1024)


class Place:
    """A folder for states, removed at the end."""

    def __enter__(self):
        self.path = Path(tempfile.mkdtemp(prefix="nystream-streams-"))
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def online(self, state, *options):
        """The summary of `nystream online`, and the processor seconds of the process."""
        shutil.rmtree(self.path / state, ignore_errors=True)
        command = [NYSTREAM, "online", "--state", str(self.path / state), "--format", "json", "--quiet"]
        before = os.times()
        done = subprocess.run(command + [str(o) for o in options], capture_output=True, text=True, cwd=self.path)
        after = os.times()
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, options))}: code {done.returncode}: {done.stderr.strip()[-500:]}")
        report = json.loads(done.stdout.rstrip().rsplit("\n", 1)[-1])
        report["processor_seconds"] = (after.children_user - before.children_user) + (
            after.children_system - before.children_system
        )
        return report

    def tuned(self, data, target, rows, loss="squared"):
        """A model whose kernel and ridge were tuned on the first rows, for `--config-from`: what `--init-rows` does with a source that can be read twice."""
        path = self.path / "config.nys"
        pq.write_table(data.slice(0, rows), self.path / "first.parquet")
        command = [NYSTREAM, "fit", "--data", "first.parquet", "--target", target, "--split", "none", "--quiet", "--out", str(path)]
        command += ["--loss", "logistic"] if loss == "logistic" else []
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=self.path)
        return path

    def settings(self, state):
        """What the learner was told with every default resolved; its kernel and encoder; the deviation of its target."""
        told = json.loads((self.path / state / "online.json").read_text())
        command = [NYSTREAM, "inspect", str(self.path / state / "config.nys"), "--format", "json"]
        model = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return told["settings"], model, told["rules"]["deviations"][0]

    def remove(self, state):
        shutil.rmtree(self.path / state, ignore_errors=True)


def encoded(data, model):
    """Rows as the learner sees them, of numeric columns that are only scaled; None where the encoder does more than that."""
    if model["encoder"]["categorical"]:
        return None
    columns = []
    for column in model["encoder"]["numeric"]:
        affine = column["transform"].get("affine") if isinstance(column["transform"], dict) else None
        if affine is None or column["cyclic"] or column["indicator"]:
            return None
        columns.append((data[column["column"]].to_numpy().astype(float) - affine["center"]) / affine["scale"])
    return np.stack(columns, 1).astype(np.float32).astype(float)


def print_table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)
    print(flush=True)
