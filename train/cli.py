"""Command line of the training side: ``jmmda-node train ...``, one module a command in `train.commands`.

Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import typer

from train.commands import evaluate, experiment, export, fit, methods, phantom, prepare, references, segmenter

app = typer.Typer(
    name="train",
    help=(
        "Make phantom data or prepare an archive, train, evaluate and export models. What is measured on the phantom "
        "is marked as such and says nothing about patients."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

app.command(epilog=phantom.EPILOG)(phantom.phantom)
app.command(epilog=prepare.EPILOG)(prepare.prepare)
app.command(epilog=references.EPILOG)(references.references)
app.command(epilog=fit.EPILOG)(fit.fit)
app.command(epilog=experiment.EPILOG)(experiment.experiment)
app.command(epilog=methods.EPILOG)(methods.methods)
app.command(epilog=segmenter.EPILOG)(segmenter.segmenter)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=export.EPILOG)(export.export)
