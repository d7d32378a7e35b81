# First-order optimizers with the same updates as in pyneuralode/fitting/optimizers.py, which are those of torch.optim.

import Optimisers

"Return the learning rate at `iteration`, counted from 0, of a stage with `iterations` iterations."
function rate(settings::AbstractDict, iteration, iterations)
    lr, part = settings["lr"], iteration / max(1, iterations - 1)
    decay, final = settings["schedule"], settings["final"]
    decay == "constant" && return lr
    decay == "cosine" && return lr * (final + (1 - final) * 0.5 * (1 + cospi(part)))
    decay == "exponential" && return lr * final^part
    throw(UserError("schedule is $(repr(decay)), which is unknown: use constant, cosine or exponential."))
end

"Scale a gradient down to norm `most` if its norm is larger; with `nothing` for `most`, leave it unchanged."
clip!(gradient, ::Nothing) = gradient
clip!(gradient, most) = gradient .*= min(1, most / (norm(gradient) + oftype(norm(gradient), 1e-6)))

# The rules use the learning rate 1, and their steps are scaled by the learning rate of the iteration: momentum accumulates gradients in
# torch, but steps in Optimisers.jl, and the two differ when the rate changes.
const RULES = Dict{String, Function}(
    "Adam" => s -> Optimisers.Adam(1.0, Tuple(s["betas"]), s["eps"]),
    "AdamW" => s -> Optimisers.AdamW(1.0, Tuple(s["betas"]), s["weight_decay"], s["eps"]),
    "RMSprop" => s -> Optimisers.RMSProp(1.0, s["alpha"], s["eps"]),
    "SGD" => s -> s["momentum"] == 0 ? Optimisers.Descent(1.0) : Optimisers.Momentum(1.0, s["momentum"])
)

"A first-order optimizer and its state."
mutable struct FirstOrder{R, S}
    const rule::R
    state::S
end

function FirstOrder(settings::AbstractDict, x)
    rule = lookup("optimizer", settings["kind"], RULES)(settings)
    return FirstOrder(rule, Optimisers.init(rule, x))
end

"Move `x` by one step of the optimizer."
function step!(optimizer::FirstOrder, x, gradient, lr)
    optimizer.state, update = Optimisers.apply!(optimizer.rule, optimizer.state, x, gradient)
    x .-= eltype(x)(lr) .* update
    return x
end
