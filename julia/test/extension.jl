# SciMLSensitivity and its extension are loaded when a gradient first needs them, and not before; tested in a separate process.

const FIRST_NEED = """
using PyNeuralODE

sensitivity() = Base.get_extension(PyNeuralODE, :PyNeuralODESciMLSensitivityExt)

# All in one call, as from Python: code that is loaded during the call must be usable immediately.
function gradient_by(gradient, path="sensitivity")
    s = make_solve(path, MLP([2, 4, 2]), [1.0, 0.5], [0.0, 0.5, 1.0]; gradient, control=Control(rtol=1e-9, atol=1e-9))
    p = collect(range(-0.5, 0.5; length=22))
    ys = solve!(s, p, [1.0, 0.5])
    pbar, u0bar = zeros(22), zeros(2)
    pullback!(pbar, u0bar, s, one.(ys))
    return pbar
end

stepwise, forward = gradient_by("Backprop", "discrete"), gradient_by("ForwardMode")
sensitivity() === nothing || error("SciMLSensitivity is loaded although no gradient has needed it")

path = copy(LOAD_PATH)
empty!(LOAD_PATH)
try
    gradient_by("InterpolatingAdjoint")
    error("SciMLSensitivity was loaded from an empty LOAD_PATH")
catch mistake
    mistake isa UserError && occursin("add SciMLSensitivity", mistake.message) || rethrow()
end
append!(LOAD_PATH, path)

continuous = gradient_by("InterpolatingAdjoint")
sensitivity() === nothing && error("the extension is not loaded")
for gradient in (forward, continuous)
    isapprox(gradient, stepwise; rtol=1e-6) || error("the gradients differ")
end
"""

@testset "SciMLSensitivity is loaded at first need" begin
    command = `$(Base.julia_cmd()) --startup-file=no --project=$(Base.active_project()) -e $FIRST_NEED`
    @test success(pipeline(command; stdout, stderr))
end
