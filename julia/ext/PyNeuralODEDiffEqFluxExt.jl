# The methods of src/shooting.jl.
module PyNeuralODEDiffEqFluxExt

using DiffEqFlux: DiffEqFlux, collocate_data, multiple_shoot
using LinearAlgebra: SingularException
using PyNeuralODE: PyNeuralODE, Control, UserError, VectorField, find_solver, hand_function, lookup, step_options
using SciMLSensitivity: InterpolatingAdjoint, SciMLBase, Zygote, ZygoteVJP

const KERNELS = Dict(string(nameof(kernel)) => kernel
for kernel in (
    DiffEqFlux.EpanechnikovKernel, DiffEqFlux.UniformKernel, DiffEqFlux.TriangularKernel, DiffEqFlux.QuarticKernel, DiffEqFlux.TriweightKernel,
    DiffEqFlux.TricubeKernel, DiffEqFlux.GaussianKernel, DiffEqFlux.CosineKernel, DiffEqFlux.LogisticKernel, DiffEqFlux.SigmoidKernel,
    DiffEqFlux.SilvermanKernel))

function PyNeuralODE.collocate(data, ts, kernel, bandwidth)
    try
        return collocate_data(data, ts, lookup("kernel", kernel, KERNELS)(), bandwidth)
    catch failure
        failure isa Union{ErrorException, SingularException} || rethrow()
        throw(UserError("bandwidth is $(something(bandwidth, "chosen by DiffEqFlux")), and too few times lie within it: give a larger fraction of the time span."))
    end
end

squared_differences(data, prediction) = sum(abs2, prediction .- data)

function PyNeuralODE.shoot(field::VectorField, p, data::AbstractArray{T}, ts, group_size,
        continuity_term; solver = "Tsit5", control = Control()) where {T}
    times, method = collect(T, ts), find_solver(solver)
    start = Array(selectdim(data, ndims(data), 1))
    # The products are hand-written: `ZygoteVJP` applies only to functions without them.
    sensealg = InterpolatingAdjoint(autojacvec = ZygoteVJP())
    problem = SciMLBase.ODEProblem(hand_function(field, start, "InterpolatingAdjoint"), start, (times[1], times[end]), p)
    groups = Any[]
    function loss(p)
        total, predictions = multiple_shoot(
            p, data, times, problem, squared_differences, method.make(PyNeuralODE.AutoFiniteDiff()), group_size;
            continuity_term = T(continuity_term), sensealg, step_options(method, times, control)...)
        Zygote.ignore(() -> append!(empty!(groups), predictions))
        return total
    end
    total, back = Zygote.pullback(loss, p)
    isfinite(total) || return total, groups, fill!(similar(p), NaN)
    return total, groups, only(back(one(total)))
end

end
