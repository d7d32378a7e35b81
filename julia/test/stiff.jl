# Stiff problems of the Bari IVP test set (Mazzia and Magherini 2008; Hairer and Wanner, Solving ODEs II), compared with reference values.

function robertson!(du, u, p, t)
    slow, quick, middle = p[1] * u[1], p[2] * u[2]^2, p[3] * u[2] * u[3]
    du[1], du[2], du[3] = middle - slow, slow - middle - quick, quick
    return nothing
end

van_der_pol!(du, u, p, t) = (du[1] = u[2]; du[2] = ((1 - u[1]^2) * u[2] - u[1]) / p[1]; nothing)

function hires!(du, u, p, t)
    du[1] = -1.71u[1] + 0.43u[2] + 8.32u[3] + 0.0007
    du[2] = 1.71u[1] - 8.75u[2]
    du[3] = -10.03u[3] + 0.43u[4] + 0.035u[5]
    du[4] = 8.32u[2] + 1.71u[3] - 1.12u[4]
    du[5] = -1.745u[5] + 0.43u[6] + 0.43u[7]
    du[6] = -280u[6] * u[8] + 0.69u[4] + 1.71u[5] - 0.43u[6] + 0.69u[7]
    du[7] = 280u[6] * u[8] - 1.81u[7]
    du[8] = -du[7]
    return nothing
end

function orego!(du, u, p, t)
    s, w, q = p
    du[1] = s * (u[2] - u[1] * u[2] + u[1] - q * u[1]^2)
    du[2] = (u[3] - u[2] - u[1] * u[2]) / s
    du[3] = w * (u[1] - u[3])
    return nothing
end

const RATES = [0.04, 3e7, 1e4]
const STIFF = (
    Robertson = (
        robertson!, [1.0, 0.0, 0.0], 1e11, RATES, [2.083340149701255e-8, 8.333360770334713e-14, 0.9999999791665050]),
    VanDerPol = (van_der_pol!, [2.0, 0.0], 2.0, [1e-6], [1.706167732170483, -0.8928097010247975]),
    HIRES = (hires!, [1.0; zeros(6); 0.0057], 321.8122, nothing,
        [0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2,
            0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2]),
    OREGO = (orego!, [1.0, 2.0, 3.0], 360.0, [77.27, 0.161, 8.375e-6],
        [0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3])
)

# Second-order methods accumulate their local errors: TRBDF2 must reach 1e-4, and Rosenbrock23 to 1e-3 at looser tolerances, where
# OREGO needs 3e-6 (1.7e-3 at 1e-5).
loose(problem) = problem == :OREGO ? 3e-6 : 1e-5
function bounds(solver, problem)
    solver in ("Rosenbrock23", "AutoTsit5(Rosenbrock23)") ? (loose(problem), 1e-3) :
    solver == "TRBDF2" ? (1e-8, 1e-4) : (1e-8, 1e-5)
end

@testset "stiff: $problem by $solver" for problem in keys(STIFF),
    solver in ("Rodas5P", "KenCarp4", "Kvaerno5", "FBDF", "TRBDF2", "Rosenbrock23", "AutoTsit5(Rosenbrock23)", "AutoVern7(Rodas5P)")

    f!, u0, stop, p, truth = STIFF[problem]
    rtol, bound = bounds(solver, problem)
    result = solve_problem(f!, u0, [0.0, stop], p; solver, control = Control(; rtol, atol = 1e-14))
    @test result.ys[:, end]≈truth rtol=bound norm=x->maximum(abs, x ./ truth)
end

@testset "Robertson at t = 40 by Tsit5 is correct, but expensive" begin
    result = solve_problem(
        robertson!, [1.0, 0.0, 0.0], [0.0, 40.0], RATES; solver = "Tsit5", control = Control(rtol = 1e-6, atol = 1e-10))
    @test result.ys[:, end] ≈ [0.7158270688, 9.185534765e-6, 0.2841637457] rtol = 1e-5
    implicit = solve_problem(robertson!, [1.0, 0.0, 0.0], [0.0, 40.0], RATES;
        solver = "Rodas5P", control = Control(rtol = 1e-6, atol = 1e-10))
    @test result.nfev > 50 * implicit.nfev
end
