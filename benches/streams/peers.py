"""Beside other online learners: prequential loss and rows a second of one pass over the same rows in the same order, in one run.

Every learner predicts a row before it learns it. Targets are standardised by the model that con-kons is configured with (tuned on the first rows), numbers for the others by the mean and
deviation of these rows, with nulls at the mean; texts become a column for each value that 1 % of these rows have. Two classes are learned with logistic loss by all, and their losses are cut at
that of a probability of 1e-6. scikit-learn takes blocks of 128 rows, con-kons' own: predict the block, then learn it. Its kernel features have con-kons' tuned bandwidth and are fitted to the first
rows; the best of several step sizes and of two bandwidths counts, which favours it, as does that its rows are in memory where nystream reads a stream, logs it and keeps a durable state. Rows a second of
processor time: other programs on the machine do not count.
"""

import argparse
import time

import numpy as np
import pyarrow as pa

from common import SETS, Place, print_table, table, write_stream

BLOCK = 128


LEAST = 1e-6


def loss_of(predicted, targets, classes):
    """Squared errors; of probabilities of the second of two classes, minus the logarithm of the right one's."""
    if classes:
        right = np.where(targets > 0.5, predicted, 1.0 - predicted)
        return -np.log(np.clip(right, LEAST, 1.0))
    errors = predicted - targets
    return np.minimum(errors * errors, 1e6)


def prequential(x, y, predict, learn, block, classes):
    """Mean loss and processor seconds."""
    total, start = 0.0, time.process_time()
    for at in range(0, len(y), block):
        rows, targets = x[at : at + block], y[at : at + block]
        total += float(loss_of(predict(rows), targets, classes).sum())
        learn(rows, targets)
    return total / len(y), time.process_time() - start


def columns(data, target, first):
    """Rows as numbers; see above."""
    found = []
    for name in data.column_names:
        if name == target:
            continue
        column = data[name].combine_chunks()
        if pa.types.is_string(column.type):
            values, counts = np.unique([v for v in column[:first].to_pylist() if v is not None], return_counts=True)
            own = np.array(column.to_pylist(), dtype=object)
            found += [(own == value).astype(float) for value in values[counts >= first // 100]]
            continue
        numbers = column.to_numpy(zero_copy_only=False).astype(float)
        scale = np.nanstd(numbers[:first])
        numbers = (numbers - np.nanmean(numbers[:first])) / (scale if scale > 0.0 else 1.0)
        found.append(np.nan_to_num(numbers))
    return np.stack(found, 1)


def sklearn_learners(first, bandwidth, classes):
    from sklearn.kernel_approximation import Nystroem, RBFSampler
    from sklearn.linear_model import SGDClassifier, SGDRegressor

    # By con-kons' bandwidth, and by the common rule of columns and their variance, since columns differ from con-kons' where there are texts.
    gammas = {"": 1.0 / (2.0 * bandwidth**2), ", common scale": 1.0 / (first.shape[1] * first.var())}
    for how, gamma in gammas.items():
        maps = {
            "Nystroem(256)": Nystroem(gamma=gamma, n_components=256, random_state=0).fit(first),
            "RBFSampler(256)": RBFSampler(gamma=gamma, n_components=256, random_state=0).fit(first),
            "RBFSampler(1024)": RBFSampler(gamma=gamma, n_components=1024, random_state=0).fit(first),
        }
        for name, features, rate in ((*item, rate) for item in maps.items() for rate in (0.003, 0.01, 0.03, 0.1)):
            settings = {"learning_rate": "constant", "eta0": rate, "alpha": 1e-7, "random_state": 0}
            model = SGDClassifier(loss="log_loss", **settings) if classes else SGDRegressor(**settings)
            state = {"features": None}

            def predict(rows, features=features, model=model, state=state):
                state["features"] = features.transform(rows)
                if not hasattr(model, "coef_"):
                    return np.full(len(rows), 0.5 if classes else 0.0)
                return model.predict_proba(state["features"])[:, 1] if classes else model.predict(state["features"])

            def learn(_, targets, model=model, state=state):
                model.partial_fit(state["features"], targets, **({"classes": [0.0, 1.0]} if classes else {}))

            yield f"{type(model).__name__} on {name}", f"step {rate}{how}", predict, learn, BLOCK


def river_learners(classes):
    from river import linear_model, optim, tree

    linear = linear_model.LogisticRegression if classes else linear_model.LinearRegression
    plain = tree.HoeffdingTreeClassifier if classes else tree.HoeffdingTreeRegressor
    adaptive = tree.HoeffdingAdaptiveTreeClassifier if classes else tree.HoeffdingAdaptiveTreeRegressor
    models = [(f"step {rate}", linear(optimizer=optim.SGD(rate))) for rate in (0.001, 0.01)]
    models += [("", plain()), ("", adaptive(seed=0))]
    for how, model in models:
        state = {}

        def predict(rows, model=model, state=state):
            state["row"] = dict(enumerate(rows[0].tolist()))
            if classes:
                return np.array([model.predict_proba_one(state["row"]).get(True, 0.5)])
            return np.array([model.predict_one(state["row"])])

        def learn(_, targets, model=model, state=state):
            model.learn_one(state["row"], bool(targets[0] > 0.5) if classes else float(targets[0]))

        yield f"River {type(model).__name__}", how, predict, learn, 1


def one(folder, name, rows, init_rows):
    data = table(folder, name, rows)
    if data is None:
        print(f"{name}: absent")
        return
    target, _, loss = SETS[name]
    classes = loss == "logistic"
    found = {}
    with Place() as place:
        write_stream(data, place.path / "in.ipc")
        config = place.tuned(data, target, init_rows, loss)
        for label, more in (("nystream con-kons, 256 atoms", ["--cap", 256]), ("nystream con-kons, 1,024 atoms", ["--cap", 1024])):
            run = place.online("s", "--config-from", config, "--target", target, "--input", "ipc:in.ipc", "--loss", loss, *more)
            found[label] = (run["prequential"]["mean_loss"], run["processor_seconds"], "default")
        _, model, deviation = place.settings("s")
    x = columns(data, target, init_rows)
    y = data[target].to_numpy().astype(float)
    if not classes:
        y = (y - model["encoder"]["bounds"]["targets"][0]["centre"]) / deviation
    for learners in (lambda: sklearn_learners(x[:init_rows], model["bandwidth"], classes), lambda: river_learners(classes)):
        try:
            for label, how, predict, learn, block in learners():
                loss, seconds = prequential(x, y, predict, learn, block, classes)
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
    parser.add_argument("--only", default=",".join(SETS))
    args = parser.parse_args()
    for name in args.only.split(","):
        one(args.data, name, args.rows, args.init_rows)


if __name__ == "__main__":
    main()
