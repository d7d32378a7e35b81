using PyNeuralODE
using Test

@testset "PyNeuralODE" begin
    include("fields.jl")
    include("solvers.jl")
    include("stiff.jl")
    include("discrete.jl")
    include("adjoints.jl")
    include("equations.jl")
    include("fitting.jl")
    include("flows.jl")
    include("devices.jl")
end
