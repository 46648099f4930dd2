"""``bayesdrop train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesdrop.commands.options import DataDir, Json, Threads, complete_data, complete_recipe
from bayesdrop.commands.terminal import announce, print_json, set_threads
from bayesdrop.listing import kept_words


def train(  # noqa: PLR0913 - one option for each thing users change
    recipe: Annotated[
        str,
        typer.Argument(
            help="Name of a recipe, see 'bayesdrop list recipes', or a file such as my.yaml, "
            "see 'bayesdrop recipe'.",
            autocompletion=complete_recipe,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set, such as mnist, mnist:0-7 or folder:PATH@64, images of 64 x 64 pixels. "
            "[default: the recipe's]",
            autocompletion=complete_data,
        ),
    ] = None,
    data_dir: DataDir = None,
    validation: Annotated[
        int | None,
        typer.Option(min=0, help="Validation examples; 0 for none. [default: the data set's]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and masks.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. [default: runs/RECIPE-SEED]")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="Finished run whose stages this recipe continues."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the last stage.")] = None,
    pretrain_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of the stage before.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Examples a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of network weights.")] = None,
    variational_learning_rate: Annotated[
        float | None, typer.Option(help="Of the dropout layers' parameters.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of network weights.")] = None,
    compact_every: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs after which pruned units leave training for good."),
    ] = None,
    private_epsilon: Annotated[
        float | None, typer.Option(help="Train with differential privacy, at delta 1e-5.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Pretrained encoder of a text-encoder recipe: a folder as save_pretrained of "
            "transformers writes it. [default: the recipe's]"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train, such as cuda.")] = "cpu",
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Train a recipe, or continue where an interrupted run stopped."""
    from bayesdrop.recipes import SUFFIXES, choose_encoder, get, read_recipe, run_recipe
    from bayesdrop.record import plain

    set_threads(threads)
    chosen = (read_recipe if recipe.endswith(SUFFIXES) else get)(recipe).override(
        epochs=epochs,
        pretrain_epochs=pretrain_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        variational_learning_rate=variational_learning_rate,
        weight_decay=weight_decay,
        compact_every=compact_every,
        private_epsilon=private_epsilon,
    )
    chosen = choose_encoder(chosen, encoder)
    out = Path("runs") / f"{chosen.name}-{seed}" if out is None else out
    done = (out / "model.pt").exists()
    run = run_recipe(
        chosen,
        out=out,
        data=data,
        data_dir=data_dir,
        validation=validation,
        seed=seed,
        start=start,
        device=device,
        announce=announce,
    )
    last = next(reversed(run.history.values()))[-1]
    if as_json:
        written = [str(out / name) for name in ("model.pt", "recipe.json", "history.json")]
        found = {"recipe": chosen.name, "data": run.data, "seed": seed, "run": str(out)}
        found |= {"finished_before": done, "minutes": run.minutes, "last_epoch": last}
        found |= {"kept": run.bnn.kept(), "total": run.bnn.total(), "privacy": run.bnn.privacy}
        print_json(plain({**found, "written": written}))
        return
    when = "was finished already," if done else "finished"
    parts = [f"{out}: {when} after {run.minutes:.1f} minutes"]
    if "val_error" in last:
        parts.append(f"validation error {last['val_error']:.2f} %")
    parts += kept_words(run.bnn)
    typer.echo(", ".join(parts))
    if run.bnn.privacy is not None:
        typer.echo(f"Promised: {run.bnn.privacy}")
    typer.echo(f"Next: bayesdrop evaluate {out}")
