"""The cause of a failed download or setup step, found in its output, and what the user can do about it."""

from __future__ import annotations

import re

# Patterns in the output of a failed step, and the cause to report to the user; the first that matches counts.
_CAUSES = (
    (
        r"no space left on device|ENOSPC|not enough (disk )?space",
        "the disk is full: free some space (the setup needs 6 GB), then run `pyneuralode setup-julia` again",
    ),
    (
        r"proxy authentication|(HTTP code|HTTP/[\d.]+|connection failed:) 407",
        "the proxy asks for a user name and a password: set the environment variable https_proxy to "
        "http://NAME:PASSWORD@HOST:PORT",
    ),
    (
        r"certificate verify failed|(SSL|certificate|peer).{0,40}(verif|certificate|self.signed)",
        "the network's certificate is not trusted: set the environment variables SSL_CERT_FILE and "
        "JULIA_SSL_CA_ROOTS_PATH to your organization's certificate file",
    ),
    (
        (
            r"could(n't| not) (resolve|connect)|connection (refused|reset|timed out|aborted)|timed out|name resolution"
            r"|urlopen error|failed to (download|clone|fetch)|RequestError|network is unreachable"
        ),
        "the network cannot be reached: connect to it, or set the environment variable https_proxy to your proxy",
    ),
    (
        r"permission denied|EACCES|read-only file system",
        "a folder is not writable: choose another folder with --project",
    ),
    (r"unsatisfiable requirements", "the versions of the Julia packages are incompatible: choose a new --project"),
    (
        r"expected package .* to be registered|no registries have been installed",
        "a package is missing from Julia's registry: run `julia -e 'using Pkg; Pkg.Registry.update()'` with network access",
    ),
)


def find_cause(output: str) -> str:
    """Return the cause of a failure and its remedy, or else the last line of `output` that reports an error."""
    for pattern, sentence in _CAUSES:
        if re.search(pattern, output, re.IGNORECASE):
            return sentence
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error", line, re.IGNORECASE)]
    return (errors or lines or ["there was no output"])[-1].rstrip(".")
