# The two kinds of failure that a caller can do something about; the bridge turns them into the Python exceptions.

"""
    UserError(message)

An argument that does not fit; the message is one sentence that says what to write instead.
"""
struct UserError <: Exception
    message::String
end

Base.showerror(io::IO, error::UserError) = print(io, error.message)

"""
    SolveFailure(message, t, step)

A solve that could not reach its end; `t` is the time it reached and `step` the size of its last step (NaN if not known).
"""
struct SolveFailure <: Exception
    message::String
    t::Float64
    step::Float64
end

Base.showerror(io::IO, error::SolveFailure) = print(io, error.message)

"Return `catalog[name]`; an unknown name is answered with the known ones."
function lookup(argument, name, catalog)
    # Looked up as a string: code that compares it as anything is compiled anew once other packages define comparisons.
    key = string(name)::String
    haskey(catalog, key) && return catalog[key]
    names = join(sort!(string.(collect(keys(catalog)))), ", ")
    throw(UserError("$argument is $(repr(key)), which is not known: known are $names."))
end
