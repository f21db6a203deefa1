"""Boosted trees: 500 of them, learning rate 0.05, all else default; nulls and categories as the libraries themselves treat them."""

import glob

import numpy as np

from common import read, seconds, serve


class Table:
    """Features as one f64 matrix, NaN for nulls and codes for text; rows without a target left out."""

    def __init__(self, job, levels=None):
        columns = read(sorted(glob.glob(job["train"] if levels is None else job["test"])))
        target = np.asarray(columns.pop(job["target"]), "f8")
        known = ~np.isnan(target)
        self.names, self.levels, features = list(columns), levels or {}, []
        self.text = [i for i, name in enumerate(self.names) if isinstance(columns[name], list)]
        for i, name in enumerate(self.names):
            values = columns[name]
            if i in self.text:
                codes = self.levels.setdefault(name, {level: code for code, level in enumerate(sorted(set(values) - {None}))})
                values = [codes.get(value, np.nan) for value in values]
            features.append(np.asarray(values, "f8")[known])
        self.x, self.y = np.stack(features, axis=1), target[known]


def fit(job, train):
    made = {}

    def run():
        made["table"] = table = Table(job)
        made["predict"] = train(table)

    least = min(seconds(run) for _ in range(job["repeats"]))
    test, spread = Table(job, made["table"].levels), made["table"].y.std()
    error = float(((made["predict"](test.x) - test.y) ** 2).mean() ** 0.5 / spread)
    return {"seconds": least, "error": error, "how": f"{job['trees']} trees"}


def lightgbm(job):
    import lightgbm as lgb

    def train(table):
        parameters = {"objective": "regression", "learning_rate": 0.05, "num_threads": job["threads"], "verbosity": -1}
        data = lgb.Dataset(table.x, table.y, categorical_feature=table.text)
        return lgb.train(parameters, data, job["trees"]).predict

    return fit(job, train)


def xgboost(job):
    import xgboost as xgb

    def matrix(x, table, y=None):
        types = ["c" if i in table.text else "q" for i in range(x.shape[1])]
        return xgb.DMatrix(x, y, feature_types=types, enable_categorical=True, nthread=job["threads"])

    def train(table):
        parameters = {"objective": "reg:squarederror", "learning_rate": 0.05, "tree_method": "hist", "nthread": job["threads"]}
        model = xgb.train(parameters, matrix(table.x, table, table.y), job["trees"])
        return lambda x: model.predict(matrix(x, table))

    return fit(job, train)


if __name__ == "__main__":
    serve({"LightGBM": lightgbm, "XGBoost": xgboost})
