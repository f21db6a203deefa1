"""Loss by size of the dictionary: con-kons beside exact online ridge regression and first-order kernel gradient descent, on the first rows of each set.

The exact learner is `--mode kons` with the same kernel and alpha and no clip range, which for squared loss is online kernel ridge regression of ridge alpha / 2 (the library's tests hold it
to a dense solve of all rows before each row). Gradient descent is f <- f - step l'(f(x)) k(x, .), step constant or over sqrt(t); the best of all steps counts.
"""

import argparse

import numpy as np

from common import SETS, Place, encoded, print_table, table, write_stream
from descent import FAMILIES, descent


def gradient_descent(data, name, model, deviation):
    """Mean squared loss with the best step, standardised by the model's mean and deviation; None for rows that this script cannot encode."""
    x = encoded(data, model)
    if x is None or SETS[name][2] != "squared" or model["kernel"] not in FAMILIES:
        return None
    y = (data[SETS[name][0]].to_numpy().astype(float) - model["encoder"]["bounds"]["targets"][0]["centre"]) / deviation
    return np.nanmin(descent(x, y, model["kernel"], model["bandwidth"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the sets")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--init-rows", type=int, default=2000, help="rows on which kernel and alpha are tuned")
    parser.add_argument("--caps", default="64,256,1024,2048")
    parser.add_argument("--only", default=",".join(SETS))
    parser.add_argument("--more", default="", help="further options of con-kons, such as '--gamma 1e-3'")
    args = parser.parse_args()
    caps = [int(cap) for cap in args.caps.split(",")]
    lines = []
    for name in args.only.split(","):
        data = table(args.data, name, args.rows)
        if data is None:
            print(f"{name}: absent")
            continue
        target, _, loss = SETS[name]
        with Place() as place:
            write_stream(data, place.path / "in.ipc")
            config = place.tuned(data, target, args.init_rows, loss)
            common = ["--config-from", config, "--target", target, "--input", "ipc:in.ipc", "--loss", loss, "--hindsight", 500]
            runs = [place.online("s", *common, "--cap", cap, *args.more.split()) for cap in caps]
            settings, model, deviation = place.settings("s")
            clip = ["--clip", "none"] if loss == "squared" else []
            exact = place.online("exact", *common, "--mode", "kons", *clip)
            base = exact["prequential"]["mean_loss"]
            sgd = gradient_descent(data, name, model, deviation)
        cells = []
        for run in runs:
            mean, regret = run["prequential"]["mean_loss"], run.get("regret", {})
            cells.append(f"{mean:.4f} ({mean / base:.2f}x, {run['dictionary']})")
            if regret.get("bound") is not None and regret["measured"] > regret["bound"] + 3.0 * regret.get("error", 0.0):
                cells[-1] += f" REGRET {regret['measured']:.3g} > {regret['bound']:.3g}"
        last = runs[-1]["prequential"]["mean_loss"]
        descent = "" if sgd is None else f"{sgd:.4f} ({last / sgd:.2f}x)"
        lines.append([name, f"{model['kernel']}, {settings['alpha']:.3g}", *cells, f"{base:.4f}", descent])
        print(lines[-1], flush=True)
    print_table(["set", "kernel, alpha", *[f"cap {cap}" for cap in caps], "exact", "gradient descent (con-kons / it)"], lines)


if __name__ == "__main__":
    main()
