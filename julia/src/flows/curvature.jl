# Second derivatives of the activations and input maps, computed from the argument x and the value y: the gradient of a log
# density contains second derivatives of the field.

second_derivative(::Val{:identity}, x, y) = zero(x)
second_derivative(::Val{:tanh}, x, y) = -2 * y * (1 - y * y)
second_derivative(::Val{:relu}, x, y) = zero(x)
second_derivative(::Val{:swish}, x, y) = (s = logistic(x); s * (1 - s) * (2 + x * (1 - 2 * s)))
second_derivative(::Val{:softplus}, x, y) = (s = logistic(x); s * (1 - s))
second_derivative(::Val{:elu}, x, y) = ifelse(x > 0, zero(x), y + 1)
second_derivative(::Val{:gelu}, x, y) = exp(-x * x / 2) / sqrt(oftype(x, 2π)) * (2 - x * x)
second_derivative(::Val{:sigmoid}, x, y) = y * (1 - y) * (1 - 2 * y)
second_derivative(::Val{:sin}, x, y) = -y
second_derivative(::Val{:square}, x, y) = oftype(x, 2)
second_derivative(::Val{:cube}, x, y) = 6 * x
