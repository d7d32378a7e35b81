# Activations and input maps, and their derivatives computed from the argument x and the value y.
# They accept any real number type, so that dual and traced numbers work.

using SpecialFunctions: erf

logistic(x) = (e = exp(-abs(x)); ifelse(x >= 0, inv(1 + e), e / (1 + e)))

activate(::Val{:identity}, x) = x
activate(::Val{:tanh}, x) = tanh(x)
activate(::Val{:relu}, x) = max(x, zero(x))
activate(::Val{:swish}, x) = x * logistic(x)
activate(::Val{:softplus}, x) = max(x, zero(x)) + log1p(exp(-abs(x)))
activate(::Val{:elu}, x) = x > 0 ? x : expm1(x)
activate(::Val{:gelu}, x) = x * (1 + erf(x / sqrt(oftype(x, 2)))) / 2
activate(::Val{:sigmoid}, x) = logistic(x)
activate(::Val{:sin}, x) = sin(x)
activate(::Val{:square}, x) = x * x
activate(::Val{:cube}, x) = x * x * x

derivative(::Val{:identity}, x, y) = one(x)
derivative(::Val{:tanh}, x, y) = 1 - y * y
derivative(::Val{:relu}, x, y) = ifelse(x > 0, one(x), zero(x))
derivative(::Val{:swish}, x, y) = (s = logistic(x); s + y * (1 - s))
derivative(::Val{:softplus}, x, y) = logistic(x)
derivative(::Val{:elu}, x, y) = ifelse(x > 0, one(x), y + 1)
derivative(::Val{:gelu}, x, y) = (1 + erf(x / sqrt(oftype(x, 2)))) / 2 + x * exp(-x * x / 2) / sqrt(oftype(x, 2π))
derivative(::Val{:sigmoid}, x, y) = y * (1 - y)
derivative(::Val{:sin}, x, y) = cos(x)
derivative(::Val{:square}, x, y) = x + x
derivative(::Val{:cube}, x, y) = 3 * x * x

const ACTIVATIONS = Dict(string(n) => Val(n)
for n in (:identity, :tanh, :relu, :swish, :softplus, :elu, :gelu, :sigmoid, :sin))
const INPUT_MAPS = Dict(string(n) => Val(n) for n in (:identity, :square, :cube))
