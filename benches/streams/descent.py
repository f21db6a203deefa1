"""Loss beside first-order kernel gradient descent over whole sets, in file order: con-kons, and f <- f - step l'(f(x)) k(x, .) with every row an atom.

Steps are constant or fall with the square root of t; the best of fourteen in hindsight counts, which favours descent. Kernel and alpha are con-kons' own, tuned on the first rows.
"""

import argparse

import numpy as np

from common import SETS, Place, encoded, print_table, table, write_stream

STEPS = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
BLOCK = 256
FAMILIES = {
    "gaussian": lambda d, width: np.exp(-d / (2.0 * width**2)),
    "laplace": lambda d, width: np.exp(-np.sqrt(d) / width),
    "matern32": lambda d, width: (1.0 + np.sqrt(3.0 * d) / width) * np.exp(-np.sqrt(3.0 * d) / width),
    "matern52": lambda d, width: (1.0 + np.sqrt(5.0 * d) / width + 5.0 * d / (3.0 * width**2)) * np.exp(-np.sqrt(5.0 * d) / width),
}


def descent(x, y, family, width):
    """Mean squared losses of all steps, each over the rows in order: n^2 / 2 entries, no more than a block of them in memory."""
    squares = (x * x).sum(1)
    # A column a step: the constant ones, then those that fall.
    coefficients, totals = np.zeros((len(y), 2 * len(STEPS))), np.zeros(2 * len(STEPS))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(y), BLOCK):
            rows = slice(start, min(start + BLOCK, len(y)))
            distances = np.maximum(squares[: rows.stop, None] + squares[None, rows] - 2.0 * x[: rows.stop] @ x[rows].T, 0.0)
            k = FAMILIES[family](distances, width)
            before = k[:start].T @ coefficients[:start]
            for t in range(start, rows.stop):
                i = t - start
                errors = before[i] + k[start:t, i] @ coefficients[start:t] - y[t]
                totals += errors * errors
                coefficients[t] = -2.0 * np.concatenate([STEPS, STEPS / np.sqrt(t + 1.0)]) * errors
    return totals / len(y)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the sets")
    parser.add_argument("--rows", type=int, default=None, help="of each set; all")
    parser.add_argument("--init-rows", type=int, default=2000, help="rows on which kernel and alpha are tuned")
    parser.add_argument("--caps", default="256,1024,2048")
    parser.add_argument("--only", default="kin40k,protein")
    args = parser.parse_args()
    caps = [int(cap) for cap in args.caps.split(",")]
    lines = []
    for name in args.only.split(","):
        data = table(args.data, name, args.rows)
        if data is None:
            print(f"{name}: absent")
            continue
        target = SETS[name][0]
        with Place() as place:
            write_stream(data, place.path / "in.ipc")
            config = place.tuned(data, target, args.init_rows)
            common = ["--config-from", config, "--target", target, "--input", "ipc:in.ipc"]
            runs = [place.online("s", *common, "--cap", cap) for cap in caps]
            _, model, deviation = place.settings("s")
        x = encoded(data, model)
        if x is None or model["kernel"] not in FAMILIES:
            print(f"{name}: its columns or its kernel are not known here")
            continue
        y = (data[target].to_numpy().astype(float) - model["encoder"]["bounds"]["targets"][0]["centre"]) / deviation
        losses = descent(x, y, model["kernel"], model["bandwidth"])
        best = int(np.nanargmin(losses))
        how = f"{losses[best]:.4f} (step {STEPS[best % len(STEPS)]:g}{'' if best < len(STEPS) else ' / sqrt(t)'})"
        cells = [f"{run['prequential']['mean_loss']:.4f} ({run['prequential']['mean_loss'] / losses[best]:.2f}x)" for run in runs]
        lines.append([name, f"{len(y):,}", *cells, how])
    print_table(["set", "rows", *[f"con-kons, cap {cap:,}" for cap in caps], "gradient descent"], lines)


if __name__ == "__main__":
    main()
