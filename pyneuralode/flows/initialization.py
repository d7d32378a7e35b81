"""Initial parameters for fast training of flows in the plane."""

from __future__ import annotations

import numpy as np

from ..fields import HyperMLP, Parameters, VectorField


def spread_units(field: VectorField, seed: int, reach: float = 2.0) -> Parameters:
    """Return initial parameters that spread the transitions of the first units over |x| < `reach` and times 0 to 1.

    By default, all units of a network have their transition (where the argument of the activation is 0) at the origin,
    and those of a hypernetwork at time zero; moving them apart takes many updates. Here the first layer's biases are
    uniform on (-reach, reach). In a `HyperMLP`, the hypernetwork's last bias gives such biases b at all times, and
    weights W ~ N(0, 1); its own first units, tanh(4 (t / time_scale - s)) or the negative, have transitions at times s
    uniform on (0, 1). All other parameters are the field's default initial ones.
    """
    parameters, rng = field.initial(seed), np.random.default_rng((seed, 1))
    if isinstance(field, HyperMLP):
        inward = field.width * field.dim
        parameters["bias_3"][:inward] = rng.normal(size=inward)
        parameters["bias_3"][3 * inward :] = rng.uniform(-reach, reach, size=field.width)
        slopes = 4 * rng.choice([-1.0, 1.0], size=field.hidden)
        parameters["weight_1"] = slopes[:, None]
        parameters["bias_1"] = -slopes * rng.uniform(size=field.hidden)
    else:
        parameters["bias_1"] = rng.uniform(-reach, reach, size=parameters["bias_1"].shape)
    return parameters
