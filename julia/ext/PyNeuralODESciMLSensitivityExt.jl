# The part of src/adjoints.jl that needs SciMLSensitivity.
module PyNeuralODESciMLSensitivityExt

using PrecompileTools: @compile_workload
using PyNeuralODE: PyNeuralODE, EQUATIONS, HANDLES, NETWORK, solve_and_differentiate, weights_of
using SciMLSensitivity: BacksolveAdjoint, GaussAdjoint, InterpolatingAdjoint, QuadratureAdjoint, ReverseDiff,
                        ReverseDiffVJP, Zygote, ZygoteVJP,
                        adjoint_sensitivities

# SciMLSensitivity uses the hand-written products of the ODEFunction; the choice here applies only to an ODEFunction without them.
product(::Union{Val{:hand}, Val{:zygote}}) = ZygoteVJP()
product(::Val{:reversediff}) = ReverseDiffVJP(true)

PyNeuralODE.sensitivity_method(::Val{:InterpolatingAdjoint}, vjp) = InterpolatingAdjoint(autojacvec = product(vjp))
PyNeuralODE.sensitivity_method(::Val{:GaussAdjoint}, vjp) = GaussAdjoint(autojacvec = product(vjp))
PyNeuralODE.sensitivity_method(::Val{:QuadratureAdjoint}, vjp) = QuadratureAdjoint(autojacvec = product(vjp))
# With checkpointing, the state is reset to the stored output at each output time, as in the torch engine.
function PyNeuralODE.sensitivity_method(::Val{:BacksolveAdjoint}, vjp)
    BacksolveAdjoint(autojacvec = product(vjp), checkpointing = true)
end

function PyNeuralODE.sensitivity_gradients(solution, algorithm, method, times, cotangent!; settings...)
    adjoint_sensitivities(solution, algorithm; sensealg = method, t = times, dgdu_discrete = cotangent!, settings...)
end

PyNeuralODE.zygote_pullback(f, u, p, λ) = Zygote.pullback(f, u, p)[2](λ)

# Julia (1.10 to 1.12) crashes when it loads a package image in which ReverseDiff's type of tracked numbers precedes the type of the arrays
# that contain them (github.com/JuliaLang/julia/issues/62047). Therefore a function of these arrays is precompiled first.
tracked_length(x) = length(x)
for T in (Float32, Float64), N in 1:3

    precompile(tracked_length, (ReverseDiff.TrackedArray{T, T, N, Array{T, N}, Array{T, N}},))
end

# Precompiles typical gradients, as src/workload.jl does. Without this workload, the first such gradient takes a minute.
@compile_workload begin
    vector, batch = [1.0, 0.5], [1.0 0.5; 0.3 0.2]
    net = NETWORK, weights_of(Float64)
    for u0 in (vector, batch),
        gradient in ("InterpolatingAdjoint", "GaussAdjoint", "QuadratureAdjoint", "BacksolveAdjoint")

        solve_and_differentiate(net..., u0; gradient, path = "sensitivity")
    end
    for gradient in ("InterpolatingAdjoint", "GaussAdjoint"), solver in ("Vern7", "Rodas5P")

        solve_and_differentiate(net..., vector; solver, gradient, path = "sensitivity")
    end
    for (solver, gradient) in (("Tsit5", "InterpolatingAdjoint"), ("Rodas5P", "GaussAdjoint"))
        solve_and_differentiate(EQUATIONS..., vector; solver, gradient, path = "sensitivity")
    end
    empty!(HANDLES)
end

end
