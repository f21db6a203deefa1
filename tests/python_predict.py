"""Predicts with a model of squared loss and nothing of nystream: MODEL and encoded rows as JSON in, JSON out."""
import json, sys
import numpy as np
from safetensors import safe_open

RADIAL = {
    "gaussian": lambda r: np.exp(-r**2 / 2),
    "laplace": lambda r: np.exp(-r),
    "matern12": lambda r: np.exp(-r),
    "matern32": lambda r: (1 + 3**0.5 * r) * np.exp(-(3**0.5) * r),
    "matern52": lambda r: (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r),
    "cauchy": lambda r: 1 / (1 + r**2),
}


def radial(family):
    """The function of r / sigma that `family` stands for, None for other kernels."""
    if isinstance(family, str):
        return RADIAL.get(family)
    if "wendland" not in family:
        return None
    smoothness, dimension = family["wendland"]["smoothness"], family["wendland"]["dimension"]
    l = dimension // 2 + smoothness // 2 + 1
    power, first, second = (l + 1, l + 1, 0) if smoothness == 2 else (l + 2, l + 2, (l + 1) * (l + 3) / 3)
    return lambda r: np.maximum(1 - r, 0) ** power * (1 + first * r + second * r**2)


with safe_open(sys.argv[1], "np") as file:
    config = json.loads(file.metadata()["nystream"])["config"]
    tensor = {name: file.get_tensor(name) for name in file.keys()}
kernel = config["kernel"]
if radial(kernel["family"]) is None:
    sys.exit(f"this script knows functions of the distance ({', '.join(RADIAL)}, wendland), not the kernel {kernel['family']}")
if kernel["metric"] != "isotropic":
    sys.exit("this script knows no --metric")
if config["loss"] != "squared":
    sys.exit("this script knows the squared loss only: the margins of others have the classes' shares in them")
rows = json.loads(sys.argv[2])
x, z = np.array(rows["x"]), tensor["centers"].astype(float)
r2 = ((x[:, None, :] - z[None, :, :]) ** 2).sum(axis=2)
if "center_codes" in tensor:
    r2 += (np.array(rows["codes"])[:, None, :] != tensor["center_codes"][None, :, :]).sum(axis=2)
k = radial(kernel["family"])(np.sqrt(r2) / kernel["bandwidth"])
json.dump((tensor["intercepts"] + k @ tensor["coefficients"]).tolist(), sys.stdout)
