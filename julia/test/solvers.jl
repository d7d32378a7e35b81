# Solves: orders of convergence, the meaning of fixed steps, dense output, failures and their causes.

using LinearAlgebra

# Nonlinear and time-dependent; the solution is (exp(sin t), cos t + 2).
coupled!(du, u, p, t) = (du[1] = u[1] * (u[2] - 2); du[2] = -sin(t) * u[1] * exp(-sin(t)); nothing)
coupled(t) = [exp(sin(t)), cos(t) + 2]

# Nonlinear and independent of time; the solution is (1 / cosh t, -tanh t).
steady!(du, u, p, t) = (du[1] = u[1] * u[2]; du[2] = -u[1]^2; nothing)
steady(t) = [sech(t), -tanh(t)]

function order_of(f!, exact, solver, stop, counts)
    errors = map(counts) do n
        result = solve_problem(
            f!, exact(0.0), [0.0, stop]; solver, control = Control(step_size = stop / n, rtol = 1e-10, atol = 1e-10))
        @test result.accepted == n
        norm(result.ys[:, end] - exact(stop))
    end
    return log2(errors[1] / errors[2])
end

@testset "order of $name" for name in keys(PyNeuralODE.SOLVERS)
    name == "FBDF" && continue      # its order varies, and it chooses its own steps
    solver = find_solver(name)
    # Kvaerno5's abscissae do not fit its stages in OrdinaryDiffEqSDIRK: it has order 3 if the field depends on time.
    f!, exact = name == "Kvaerno5" ? (steady!, steady) : (coupled!, coupled)
    # For methods designed for a small leading error term, the next term is visible too: the observed order may be larger.
    slack = solver.order >= 5 ? 1.1 : 0.3
    stop = name == "DP5" ? 3.0 : 2.0        # DP5's error passes through zero near 2
    counts = solver.order <= 2 ? (128, 256) : solver.order <= 5 ? (32, 64) : solver.order <= 7 ? (8, 16) : (4, 8)
    @test solver.order - 0.3 < order_of(f!, exact, name, stop, counts) < solver.order + slack
    @test lowercase(name) != name && find_solver(lowercase(name)) === solver
end

@testset "adaptive solves by $name meet their tolerance" for name in keys(PyNeuralODE.SOLVERS)
    find_solver(name).adaptive || continue
    errors = map((1e-5, 1e-8)) do tol
        times = range(0.0, 2.0, 7)
        result = solve_problem(coupled!, coupled(0.0), times; solver = name, control = Control(rtol = tol, atol = tol))
        maximum(norm(result.ys[:, i] - coupled(t)) for (i, t) in enumerate(times))
    end
    @test errors[1] < 3e-3
    @test errors[2] < 3e-5
    @test errors[2] < errors[1] / 10
end

@testset "fixed steps" begin
    decay!(du, u, p, t) = (du .= -u; nothing)
    by_euler(steps) = prod(1 .- steps)
    uniform = solve_problem(decay!, [1.0], [0.0, 0.2, 1.0]; solver = "Euler", control = Control(step_size = 0.4))
    @test uniform.ys[1, :] ≈ [1, 1 - 0.2, by_euler([0.4, 0.4, 0.2])]          # 0.2 is the midpoint of a step, which Euler interpolates linearly
    @test (uniform.accepted, uniform.rejected) == (3, 0)
    between = solve_problem(decay!, [1.0], [0.0, 0.2, 1.0]; solver = "Euler")
    @test between.ys[1, :] ≈ [1, by_euler([0.2]), by_euler([0.2, 0.8])]
    backwards = solve_problem(decay!, [1.0], [1.0, 0.3, 0.0]; solver = "Euler", control = Control(step_size = 0.4))
    @test backwards.ys[1, end] ≈ by_euler([-0.4, -0.4, -0.2])
    # Ten steps of 0.1 are enough, although their sum is slightly below 1.
    @test solve_problem(decay!, [1.0], [0.0, 1.0]; solver = "RK4", control = Control(step_size = 0.1)).accepted == 10
    @test solve_problem(decay!, [1.0], [0.0, 1.0]; solver = "Tsit5", control = Control(step_size = 0.25)).accepted == 4
    @test_throws "more than max_steps = 10" solve_problem(
        decay!, [1.0], [0.0, 1.0]; solver = "RK4", control = Control(step_size = 0.01, max_steps = 10))
    @test_throws "FBDF chooses" solve_problem(
        decay!, [1.0], [0.0, 1.0]; solver = "FBDF", control = Control(step_size = 0.1))
end

@testset "fields and states" begin
    field = MLP([2, 8, 2]; activation = "swish")
    p = parameters(field)
    p .= sin.(eachindex(p))
    us, times = [0.3 -0.7; 0.1 0.5], [0.0, 0.5, 2.0]
    control = Control(rtol = 1e-10, atol = 1e-10)
    for solver in ("Tsit5", "Rodas5P")
        together = solve(field, p, us, times; solver, control)
        @test size(together.ys) == (2, 2, 3)
        for k in 1:2
            alone = solve(field, p, us[:, k], times; solver, control)
            @test together.ys[:, k, :] ≈ alone.ys rtol = 1e-8
            back = solve(field, p, alone.ys[:, end], reverse(times); solver, control)
            @test back.ys[:, end] ≈ us[:, k] rtol = 1e-7
        end
        single = solve(field, Float32.(p), Float32.(us), times; solver, control = Control(rtol = 1e-5, atol = 1e-5))
        @test eltype(single.ys) == Float32
        @test single.ys ≈ together.ys rtol = 1e-4
    end
    # One tolerance per component: the loose one does not make the other component less accurate.
    tight = solve(field, p, us[:, 1], times; control = Control(rtol = 0.0, atol = [1e-10, 1e-10]))
    mixed = solve(field, p, us[:, 1], times; control = Control(rtol = 0.0, atol = [1e-10, 1e10]))
    @test mixed.accepted <= tight.accepted
    @test mixed.ys[1, :] ≈ tight.ys[1, :] rtol = 1e-8
    short = solve(field, p, us[:, 1], times; control = Control(first_step = 0.01, max_step = 0.1))
    @test short.accepted >= 20
end

@testset "dense output of $solver" for (solver, bound) in (("Tsit5", 1e-7), ("Vern7", 1e-7), ("Rodas5P", 1e-6), (
    "KenCarp4", 1e-4), ("RK4", 1e-5))
    control = solver == "RK4" ? Control(step_size = 0.02) : Control(rtol = 1e-9, atol = 1e-9)
    result = solve_problem(coupled!, coupled(0.0), [0.0, 1.0, 2.0]; solver, dense = true, control)
    @test result(1.0) == result.ys[:, 2]
    @test result(0.37) ≈ coupled(0.37) rtol = bound
    @test result([0.37, 1.5]) == [result(0.37) result(1.5)]
    @test_throws "dense=true" solve_problem(coupled!, coupled(0.0), [0.0, 1.0])(0.5)
end

@testset "failures" begin
    failure(f!, u0, span; options...) =
        try
            solve_problem(f!, u0, span; options...)
            nothing
        catch error
            error
        end
    @test_logs min_level = Base.CoreLogging.Warn begin
        blowing = failure((du, u, p, t) -> (du .= u .^ 2; nothing), [1.0], [0.0, 2.0])
        @test blowing isa SolveFailure && isapprox(blowing.t, 1; rtol = 1e-3)
        @test occursin("singularity", blowing.message)
        for solver in ("Tsit5", "Rodas5P")
            start = failure((du, u, p, t) -> (du .= NaN; nothing), [1.0], [0.0, 2.0]; solver)
            @test start isa SolveFailure && occursin("at the start, t = 0", start.message)
            many = failure(coupled!, coupled(0.0), [0.0, 2.0]; solver, control = Control(max_steps = 3))
            @test many isa SolveFailure && 0 < many.t < 2 && many.step > 0 && occursin("max_steps = 3", many.message)
        end
        wall = failure((du, u, p, t) -> (du .= t < 1 ? 1.0 : NaN; nothing), [1.0], [0.0, 2.0])
        @test wall isa SolveFailure && isapprox(wall.t, 1; rtol = 1e-3)
        @test occursin("non-finite", wall.message)
        overflow = failure((du, u, p, t) -> (du .= 1e300 .* u; nothing), [1.0], [0.0, 2.0];
            solver = "Euler", control = Control(step_size = 0.1))
        @test overflow isa SolveFailure && occursin("smaller steps", overflow.message)
    end
    # A trial step to non-finite values is rejected and shortened, and does not end the solve.
    cliff!(du, u, p, t) = (du[1] = u[1] < 0 ? NaN : -u[1]; nothing)
    @test solve_problem(cliff!, [1.0], [0.0, 20.0]; control = Control(first_step = 15.0)).ys[1, end] ≈ exp(-20) atol = 1e-5
    @test_throws "tist5" solve_problem(coupled!, coupled(0.0), [0.0, 1.0]; solver = "tist5")
    @test_throws "ts is" solve_problem(coupled!, coupled(0.0), [0.0, 1.0, 0.5])
end
