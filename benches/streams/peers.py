"""Beside other online learners: prequential loss and rows a second of one pass over the same rows in the same order, in one run.

Every learner predicts a row before it learns it. Targets are standardised by the model that con-kons is configured with (tuned on the first rows), features for the others by the mean and
deviation of these rows. scikit-learn takes blocks of 128 rows, con-kons' own: predict the block, then learn it. Its kernel features have con-kons' tuned bandwidth and are fitted to the first
rows; the best of several step sizes counts, which favours it, as does that its rows are in memory where nystream reads a stream, logs it and keeps a durable state. Rows a second of
processor time: other programs on the machine do not count.
"""

import argparse
import time

import numpy as np

from common import SETS, Place, print_table, table, write_stream

BLOCK = 128


def prequential(x, y, predict, learn, block):
    """Mean squared loss and processor seconds."""
    total, start = 0.0, time.process_time()
    for at in range(0, len(y), block):
        rows, targets = x[at : at + block], y[at : at + block]
        errors = predict(rows) - targets
        total += float(np.minimum(errors * errors, 1e6).sum())
        learn(rows, targets)
    return total / len(y), time.process_time() - start


def sklearn_learners(first, bandwidth):
    from sklearn.kernel_approximation import Nystroem, RBFSampler
    from sklearn.linear_model import SGDRegressor

    gamma = 1.0 / (2.0 * bandwidth**2)
    maps = {
        "SGDRegressor on Nystroem(256)": Nystroem(gamma=gamma, n_components=256, random_state=0).fit(first),
        "SGDRegressor on RBFSampler(256)": RBFSampler(gamma=gamma, n_components=256, random_state=0).fit(first),
        "SGDRegressor on RBFSampler(1024)": RBFSampler(gamma=gamma, n_components=1024, random_state=0).fit(first),
    }
    for name, features in maps.items():
        for rate in (0.003, 0.01, 0.03, 0.1):
            model = SGDRegressor(learning_rate="constant", eta0=rate, alpha=1e-7, random_state=0)
            state = {"features": None}

            def predict(rows, features=features, model=model, state=state):
                state["features"] = features.transform(rows)
                return model.predict(state["features"]) if hasattr(model, "coef_") else np.zeros(len(rows))

            def learn(_, targets, model=model, state=state):
                model.partial_fit(state["features"], targets)

            yield name, f"step {rate}", predict, learn, BLOCK


def river_learners():
    from river import linear_model, optim, tree

    models = {
        "River LinearRegression": lambda: [
            (f"step {rate}", linear_model.LinearRegression(optimizer=optim.SGD(rate))) for rate in (0.001, 0.01)
        ],
        "River HoeffdingTreeRegressor": lambda: [("", tree.HoeffdingTreeRegressor())],
        "River HoeffdingAdaptiveTreeRegressor": lambda: [("", tree.HoeffdingAdaptiveTreeRegressor(seed=0))],
    }
    for name, make in models.items():
        for how, model in make():
            state = {}

            def predict(rows, model=model, state=state):
                state["row"] = dict(enumerate(rows[0].tolist()))
                return np.array([model.predict_one(state["row"])])

            def learn(_, targets, model=model, state=state):
                model.learn_one(state["row"], float(targets[0]))

            yield name, how, predict, learn, 1


def one(folder, name, rows, init_rows):
    data = table(folder, name, rows)
    if data is None:
        print(f"{name}: absent")
        return
    target = SETS[name][0]
    found = {}
    with Place() as place:
        write_stream(data, place.path / "in.ipc")
        config = place.tuned(data, target, init_rows)
        for label, more in (("nystream con-kons, 256 atoms", ["--cap", 256]), ("nystream con-kons, 1,024 atoms", ["--cap", 1024])):
            run = place.online("s", "--config-from", config, "--target", target, "--input", "ipc:in.ipc", *more)
            found[label] = (run["prequential"]["mean_loss"], run["processor_seconds"], "default")
        _, model, deviation = place.settings("s")
    numbers = [c for c in data.column_names if c != target]
    x = np.stack([data[c].to_numpy().astype(float) for c in numbers], 1)
    first = x[:init_rows]
    scale = first.std(0)
    x = (x - first.mean(0)) / np.where(scale > 0.0, scale, 1.0)
    y = (data[target].to_numpy().astype(float) - model["encoder"]["bounds"]["targets"][0]["centre"]) / deviation
    for learners in (lambda: sklearn_learners(x[:init_rows], model["bandwidth"]), river_learners):
        try:
            for label, how, predict, learn, block in learners():
                loss, seconds = prequential(x, y, predict, learn, block)
                if label not in found or loss < found[label][0]:
                    found[label] = (loss, seconds, how)
        except ModuleNotFoundError as error:
            print(f"{error.name} is not installed")
    lines = [[name, f"{len(y):,}", label, f"{loss:.4f}", f"{len(y) / seconds:,.0f}", how] for label, (loss, seconds, how) in found.items()]
    print_table(["set", "rows", "learner", "mean loss", "rows/s", "how"], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the sets")
    parser.add_argument("--rows", type=int, default=None, help="of each set; all")
    parser.add_argument("--init-rows", type=int, default=2000)
    parser.add_argument("--only", default="kin40k,protein,keggdirected", help="sets of numbers alone")
    args = parser.parse_args()
    for name in args.only.split(","):
        one(args.data, name, args.rows, args.init_rows)


if __name__ == "__main__":
    main()
