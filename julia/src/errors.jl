# The two kinds of error that a caller can act on; the bridge to Python turns them into Python exceptions.

"""
    UserError(message)

Thrown for an invalid argument; the message is one sentence that says what to use instead.
"""
struct UserError <: Exception
    message::String
end

Base.showerror(io::IO, err::UserError) = print(io, err.message)

"""
    SolveFailure(message, t, step)

Thrown if a solve does not reach the last time; `t` is the time that it reached and `step` the size of its last step (NaN if unknown).
"""
struct SolveFailure <: Exception
    message::String
    t::Float64
    step::Float64
end

Base.showerror(io::IO, err::SolveFailure) = print(io, err.message)

"Return `catalog[name]`; throw a `UserError` that lists the known names if `name` is not one of them."
function lookup(argument, name, catalog)
    # Looked up as a String: code that compares values of unknown type is recompiled whenever another package defines a comparison.
    key = string(name)::String
    haskey(catalog, key) && return catalog[key]
    known = join(sort!(string.(collect(keys(catalog)))), ", ")
    throw(UserError("$argument is $(repr(key)), which is unknown: use one of $known."))
end
