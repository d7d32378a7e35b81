"""`pyneuralode setup-julia`: install what the Julia engine needs.

The only other command that uses the network is `train --download`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from .error_reporting import one_sentence


@one_sentence()
def setup_julia(
    project: Annotated[
        Path | None, Option(metavar="DIR", help="Folder of the Julia project.", show_default="one in your data folder")
    ] = None,
    sysimage: Annotated[
        bool,
        Option(
            "--sysimage", help="Also build a system image: Julia starts faster, but setup takes half an hour longer."
        ),
    ] = False,
    with_diffeqpy: Annotated[
        bool, Option("--with-diffeqpy", help="Also install diffeqpy's Julia packages (large).")
    ] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Install and compile what the Julia engine needs, and solve a test problem with it."""
    from ..engines.julia_engine.executables import setting
    from ..engines.julia_engine.install_record import default_project, make_folder
    from ..engines.julia_engine.installation import LOG, Installation, allowed_versions, find_julia, only_setup
    from ..engines.julia_engine.julia_download import download_julia
    from ..progress import RichProgress

    folder = (project or setting("PYNEURALODE_JULIA_PROJECT") or default_project()).absolute()
    if folder.exists():
        make_folder(folder)  # raises if it is a file, before anything is downloaded
    julia = find_julia()
    name = (
        "a new copy of Julia (a download of about 250 MB)"
        if julia is None
        else f"Julia {julia.version} ({julia.executable})"
    )
    typer.echo(f"This sets up {name} with a project in {folder}.")
    typer.echo("Missing packages are downloaded (about 2 GB on disk); compiling them takes 5 to 40 minutes, once.")
    if not yes and not typer.confirm("Continue?", default=True):
        raise typer.Exit(1)

    with only_setup(), RichProgress() as progress:
        installation = Installation(julia or download_julia(allowed_versions(), progress), folder)
        installation.resolve(progress, with_diffeqpy)
        installation.precompile(progress)
        image = installation.build_image(progress) if sysimage else None
        installation.verify(progress, image)
        installation.write_records(image)  # last, so that the probe never finds an incomplete installation
    typer.echo(f"The Julia engine is ready. Julia's output is in {folder / LOG}.")
    typer.echo("Next: `pyneuralode doctor --time`.")
