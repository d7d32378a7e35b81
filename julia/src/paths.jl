# The code paths that solve a problem. The caller chooses one by name (pyneuralode/engines/julia_engine/paths.py decides which one is
# suitable); settings that do not fit together raise an error here and never cause a switch to another path.

"""
    make_solve(path, field, u0, ts; solver="Tsit5", gradient="Backprop", vjp="hand", control=Control(), settings...)

Return the `DifferentiableSolve` for states like `u0` on the code path named `path`:
- "discrete": this package's own explicit steps and their exact derivative (`DiscreteSolve`), by "Backprop" or "Checkpointed" (setting `every`);
- "sensitivity": SciML's solvers with its continuous adjoints, or with "ForwardMode" (`AdjointSolve`; settings `rtol` and `atol` of the
  backward solve). `vjp` selects the field's vector-Jacobian products: "hand" (hand-written), "zygote" or "reversediff";
- "batched_sensitivity": explicit solvers and continuous adjoints on arrays on any device (`BatchSolve`; settings as above);
- "no_gradient": SciML's solvers, with nothing kept for a derivative (`PlainSolve`).

`gradient` is `nothing` if no derivative is needed.
"""
function make_solve(path, field::VectorField, u0, ts; gradient = "Backprop", options...)
    make = lookup("path", path, PATHS)
    (gradient === nothing) == (path == "no_gradient") || path == "discrete" ||
        throw(UserError(
            "path is $(repr(path)) and gradient is $(repr(gradient)): \"no_gradient\" gives no derivative, and only \"no_gradient\" and \"discrete\" " *
            "accept gradient=nothing."))
    return make(field, u0, ts; gradient, options...)
end

const PATHS = Dict{String, Function}(
    "discrete" => (field, u0, ts; vjp = "hand", options...) -> DiscreteSolve(field, u0, ts; options...),
    "sensitivity" => (field, u0, ts; options...) -> AdjointSolve(field, u0, ts; options...),
    "batched_sensitivity" => (field, u0, ts; vjp = "hand", options...) -> BatchSolve(field, u0, ts; options...),
    "no_gradient" =>
        (field, u0, ts; gradient, vjp = "hand", solver = "Tsit5", control = Control(), _...) -> PlainSolve(
            field, u0, ts; solver, control)
)
