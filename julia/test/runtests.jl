using PyNeuralODE
using Test

@testset "PyNeuralODE" begin
    include("aqua.jl")
    include("fields.jl")
    include("lux.jl")
    include("solvers.jl")
    include("stiff.jl")
    include("discrete.jl")
    include("adjoints.jl")
    include("extension.jl")
    include("equations.jl")
    include("fitting.jl")
    include("timed.jl")
    include("flows.jl")
    include("devices.jl")
    include("prepared.jl")
    include("user_code.jl")
    include("ensembles.jl")
    include("shooting.jl")
end
