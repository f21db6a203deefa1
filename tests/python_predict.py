"""Predicts with a Gaussian model and nothing of nystream: MODEL and encoded rows as JSON in, JSON out."""
import json, sys
import numpy as np
from safetensors import safe_open

with safe_open(sys.argv[1], "np") as file:
    config = json.loads(file.metadata()["nystream"])["config"]
    tensor = {name: file.get_tensor(name) for name in file.keys()}
rows = json.loads(sys.argv[2])
x, z = np.array(rows["x"]), tensor["centers"].astype(float)
r2 = ((x[:, None, :] - z[None, :, :]) ** 2).sum(axis=2)
if "center_codes" in tensor:
    r2 += (np.array(rows["codes"])[:, None, :] != tensor["center_codes"][None, :, :]).sum(axis=2)
k = np.exp(-r2 / (2 * config["kernel"]["bandwidth"] ** 2))
json.dump((tensor["intercepts"] + k @ tensor["coefficients"]).tolist(), sys.stdout)
