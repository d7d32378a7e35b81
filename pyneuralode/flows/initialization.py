"""Initial parameters for fast training of flows in the plane."""

from __future__ import annotations

import numpy as np

from ..fields import HyperMLP, Parameters, VectorField


def spread_units(field: VectorField, seed: int, reach: float = 2.0) -> Parameters:
    """Return initial parameters that spread the transitions of the units over |x| < `reach` and over times from 0 to 1.

    A unit's transition is where the argument of its activation is 0. By default, all units of a network have their
    transition at the origin, and those of a hypernetwork at time 0; moving them apart takes many updates. This function
    draws the biases of the first layer from U(-reach, reach). In a `HyperMLP`, the hypernetwork's last bias is set so
    that the network's biases b have this distribution at all times, and its weights W are drawn
    from N(0, 1). In the hypernetwork's first layer, each unit is tanh(4 (t / time_scale - s)) or its negative, with s
    uniform on (0, 1). All other parameters keep their default initial values.
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
