"""The exact adjoint of one step in compiled code; the step's time and size are treated as constants."""

from .arrays import add, copy, fill, fill_rows
from .compilation import inlined_function, inner_function
from .dense_lu import solve_transposed
from .machine import linearize, vjp, vjp_with_jacobian
from .plan import ROSENBROCK
from .steps import combine, find_jacobian, set_interpolant_weights, set_matrix


@inner_function
def step_back(machine, start, scheme, t, t_end, y, k, ts, cotangents, end_bar, y_bar, k_bar, theta_bar):
    """Propagate the cotangents of a step's end (n,), and of outputs at `ts` inside the step, to its start, y_bar (n,).

    The cotangent of the parameters is added to `theta_bar`. `start` is a second register machine; `k_bar` (s, dim) is
    scratch memory.
    """
    h, dim = t_end - t, scheme.dim
    copy(y_bar, end_bar)
    for sample in range(len(k)):
        at = sample * dim
        own, end_own = y_bar[at : at + dim], end_bar[at : at + dim]
        fill_rows(k_bar, 0.0)
        add_to_stage_bars(k_bar, scheme.ends[0], scheme.stages, h, end_own, dim)
        for j in range(len(ts)):
            if ts[j] != t_end:
                set_interpolant_weights(scheme, (ts[j] - t) / h, False)
                bar = cotangents[j, at : at + dim]
                add_to_stage_bars(k_bar, scheme.weights, len(scheme.weights), h, bar, dim)
                add(own, bar)
        if scheme.kind == ROSENBROCK:
            _rosenbrock_back(machine, start, scheme, h, t, y, at, k[sample], k_bar, own, theta_bar)
        else:
            for i in range(len(scheme.rows) - 1, -1, -1):
                if _is_nonzero(k_bar[i], dim):
                    _stage_back(machine, scheme, h, t, y, at, k[sample], i, k_bar, own, theta_bar)


@inlined_function
def add_to_stage_bars(k_bar, weights, count, h, bar, dim):
    """Add h * weights[i] * bar to k_bar[i] for the stages i < count."""
    for i in range(count):
        weight = h * weights[i]
        if weight != 0:
            for j in range(dim):
                k_bar[i, j] += weight * bar[j]


@inlined_function
def _is_nonzero(bar, dim):
    for j in range(dim):
        if bar[j] != 0:
            return True
    return False


@inlined_function
def _stage_back(machine, scheme, h, t, y, at, k, i, k_bar, y_bar, theta_bar):
    """Propagate the cotangent of an explicit or implicit stage to the step's start and the earlier stages."""
    dim, gamma = scheme.dim, scheme.places[2, i]
    combine(scheme.point, 0, y, at, k, scheme.rows[i], i, h, dim)
    for j in range(dim):
        scheme.point[j] += h * gamma * k[i, j]
    linearize(machine, t + scheme.places[0, i] * h, scheme.point, 0)
    if gamma != 0:  # dk = J (dpoint + gamma h dk)
        find_jacobian(machine, scheme.jacobians[0], scheme.frozen[0])
        set_matrix(scheme, scheme.jacobians[0], h * gamma)
        solve_transposed(scheme.matrix, scheme.pivots, k_bar[i])
    _point_vjp(machine, scheme, h, i, k_bar[i], k_bar, y_bar, theta_bar)


@inlined_function
def _point_vjp(machine, scheme, h, i, slope_bar, k_bar, y_bar, theta_bar):
    """Propagate the cotangent of the slope at the point of stage i to the step's start and the earlier stages."""
    dim, point_bar = scheme.dim, scheme.rest
    fill(point_bar, 0.0)
    vjp(machine, slope_bar, point_bar, theta_bar)
    add(y_bar, point_bar)
    add_to_stage_bars(k_bar, scheme.rows[i], i, h, point_bar, dim)


@inlined_function
def _rosenbrock_back(machine, start, scheme, h, t, y, at, k, k_bar, y_bar, theta_bar):
    """Propagate the cotangents of all Rosenbrock stages, including through the Jacobian at the step's start."""
    dim, jacobian_bar = scheme.dim, scheme.jacobian_bar
    linearize(start, t, y, at)
    find_jacobian(start, scheme.jacobians[0], scheme.frozen[0])
    set_matrix(scheme, scheme.jacobians[0], h * scheme.places[2, 0])
    fill_rows(jacobian_bar, 0.0)
    for i in range(scheme.stages - 1, -1, -1):
        gamma, along_time = scheme.places[2, i], h * scheme.places[1, i]
        bar = k_bar[i]
        solve_transposed(scheme.matrix, scheme.pivots, bar)
        for j in range(dim):
            bar[j] *= gamma
            for c in range(dim):
                jacobian_bar[j, c] += h * bar[j] * k[i, c]
            jacobian_bar[j, dim] += along_time * bar[j]
        add_to_stage_bars(k_bar, scheme.couplings[i], i, 1.0, bar, dim)
        if i > 0:
            combine(scheme.point, 0, y, at, k, scheme.rows[i], i, h, dim)
            linearize(machine, t + scheme.places[0, i] * h, scheme.point, 0)
            _point_vjp(machine, scheme, h, i, bar, k_bar, y_bar, theta_bar)
    vjp_with_jacobian(start, k_bar[0], jacobian_bar, y_bar, theta_bar)
