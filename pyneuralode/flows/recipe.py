"""What makes flows in the plane learn fast: initial parameters that are spread out."""

from __future__ import annotations

import numpy as np

from ..fields import HyperMLP, Parameters, VectorField


def spread(field: VectorField, seed: int, reach: float = 2.0) -> Parameters:
    """Return initial parameters of a network whose first units differ over all of |x| < `reach`, at times from 0 to 1.

    As a field draws them, a net's units all bend at the origin, a hypernetwork's all at time zero, and moving them
    apart takes many updates. Here the first layer's biases are uniform on (-reach, reach). In a `HyperMLP` the biases
    b are so at all times, and the weights W ~ N(0, 1), through the hypernetwork's last bias; its own first units,
    tanh(4 (t / time_scale - s)) or the negative, bend at times s uniform on (0, 1). All else is as the field draws it.
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
