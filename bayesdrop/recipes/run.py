"""Running a recipe in a folder, and loading what it left there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop import networks
from bayesdrop.data import AnyVocabulary, DataSplits, Tokenizer, load_images, parse_name
from bayesdrop.errors import CheckpointError, ConfigError, DataError
from bayesdrop.files import first_line, only_writer
from bayesdrop.inference import checkpoint
from bayesdrop.inference.fit import Callback, fit
from bayesdrop.inference.pruning import prune_unused_units
from bayesdrop.inference.schedules import warm_up
from bayesdrop.inference.score_function import SCORE_FUNCTIONS
from bayesdrop.likelihoods import Categorical
from bayesdrop.nn.arguments import is_whole
from bayesdrop.ops.seeding import as_seed
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.recipes.augment import augmented_loader
from bayesdrop.recipes.building import assemble, build_network, check_size, network_of
from bayesdrop.recipes.encoders import with_encoder
from bayesdrop.recipes.folder import (
    check_beginning,
    claim,
    claim_vocabulary,
    copy_stages,
    read_description,
    read_history,
    read_vocabulary,
    write_history,
)
from bayesdrop.recipes.recipe import Recipe, Stage, get


@dataclass(frozen=True)
class Run:
    """A trained recipe.

    Args:
        recipe: What was run.
        data: Name of its data set.
        validation: Number of validation examples; None is the data set's default.
        seed: Its seed.
        image_shape: Shape of one image, ``(C, H, W)``, or text, ``(T,)``.
        bnn: The network of the last stage.
        plain: The network without Bayesian dropout that it grew from, or None.
        history: Stage name to the records of ``fit``.
        vocabulary: Of a run on texts: ``vocabulary.encode(texts, length=T)["input_ids"]`` is what
            its network takes.
    """

    recipe: Recipe
    data: str
    validation: int | None
    seed: int
    image_shape: tuple[int, ...]
    bnn: BayesianNetwork
    plain: BayesianNetwork | None
    history: dict[str, list[dict[str, Any]]]
    vocabulary: AnyVocabulary | None = None

    @property
    def minutes(self) -> float:
        """Training time of all stages."""
        records = (record for stage in self.history.values() for record in stage)
        return sum(float(record["seconds"]) for record in records) / 60.0

    def load_data(self, data_dir: str | Path | None = None) -> DataSplits:
        """Load the data set it was trained on, split as it was.

        Raises:
            DataError: If it is absent or damaged, or its texts are no longer those.
        """
        known = self.vocabulary if isinstance(self.vocabulary, Tokenizer) else None
        found = load_images(
            self.data, data_dir=data_dir, validation=self.validation, tokenizer=known
        )
        if found.vocabulary != self.vocabulary:
            raise DataError(
                f"data {self.data!r}",
                expected="the texts that the run was trained on",
                got="other texts",
                hint="Put the files back as they were, or train again into another --out.",
            )
        return found

    def example(self, count: int = 4) -> Tensor:
        """Return random inputs such as the network takes, the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        if self.vocabulary is None:
            return torch.rand(count, *self.image_shape, generator=generator)
        size = count, *self.image_shape
        return torch.randint(len(self.vocabulary), size, generator=generator)


def run_recipe(
    recipe: Recipe | str,
    *,
    out: str | Path,
    data: str | None = None,
    data_dir: str | Path | None = None,
    validation: int | None = None,
    seed: int = 0,
    start: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    callbacks: tuple[Callback, ...] = (),
    announce: Callable[[str], object] | None = None,
) -> Run:
    """Train a recipe in the folder ``out``, or continue where an interrupted run stopped.

    Every stage has a subfolder with its checkpoint and, once finished, ``model.pt``. The folder
    itself gets ``recipe.json`` first, and ``history.json`` and ``model.pt`` at the end. Killed at
    any moment, the same call continues and ends with the same bits.

    Args:
        recipe: A recipe or its name.
        out: The run's folder.
        data: Data set; the default is the recipe's.
        data_dir: Folder of the data files.
        validation: Number of validation examples; the default is the data set's.
        seed: Seed of initial weights, order of examples and masks.
        start: Folder of a finished run whose stages are the first of this recipe's: they are
            copied instead of trained again, with the same result.
        device: Where to train, such as ``"cuda"``; the run is returned on the CPU.
        progress: Whether to show progress bars.
        callbacks: Passed to ``fit``.
        announce: Called with one line at the start of each stage.

    Raises:
        ConfigError: If a name is unknown, ``out`` holds another run, or ``start`` does not hold
            the first stages of this one.
        CheckpointError: If ``out`` cannot be written or a file in it is damaged.
        DataError: If the data cannot be loaded.

    Example:
        >>> run_recipe("digits-mlp-bb", out="runs/digits").bnn.units()  # doctest: +SKIP
    """
    recipe = get(recipe) if isinstance(recipe, str) else recipe
    data = recipe.data if data is None else data
    parse_name(data)
    seed = as_seed(seed)
    _check_device(device)
    out = Path(out)
    recipe, tokenizer = with_encoder(recipe)
    splits = load_images(data, data_dir=data_dir, validation=validation, tokenizer=tokenizer)
    run = {"recipe": recipe.to_dict(), "data": data, "validation": validation, "seed": seed}
    shape: dict[str, Any] = {
        "num_classes": splits.num_classes,
        "image_shape": list(splits.image_shape),
    }
    if splits.vocabulary is not None:
        shape["num_words"] = len(splits.vocabulary)
    history: dict[str, list[dict[str, Any]]] = {}
    plain: BayesianNetwork | None = None
    # fit seeds torch's global generator; the caller's is restored.
    with torch.random.fork_rng(), only_writer(out):
        network = _first_network(recipe, splits, seed)
        names: list[str] = []
        if start is not None:
            names = [stage.name for stage in load_run(start).recipe.stages]
            check_beginning(Path(start), len(names), run)
        claim(out, run, shape)  # after everything that may fail without a run
        if splits.vocabulary is not None:
            claim_vocabulary(out, splits.vocabulary, start)
        if start is not None:
            copy_stages(Path(start), names, out)
        for index, stage in enumerate(recipe.stages):
            network = network_of(recipe, index, network)
            bnn = BayesianNetwork(network, Categorical(), len(splits.train[1]))
            folder = out / stage.name
            if (folder / "model.pt").exists():
                checkpoint.load(bnn, folder / "model.pt").eval()
            else:
                if announce is not None:
                    announce(f"{recipe.name} on {splits.title}: stage {stage.name!r}")
                # Convolutions are faster with the channels last; no other parameter changes.
                bnn.to(device).to(memory_format=torch.channels_last)
                _train(
                    bnn, recipe, stage, splits, folder, seed + 1000 * index, progress, callbacks
                )
                bnn.cpu().to(memory_format=torch.contiguous_format)
            history |= read_history(folder / "history.json", [stage.name])
            plain = plain if stage.dropout else bnn
        write_history(out / "history.json", history)
        checkpoint.save(bnn, out / "model.pt")
    plain = None if plain is bnn else plain
    return Run(
        recipe, data, validation, seed, splits.image_shape, bnn, plain, history, splits.vocabulary
    )


def load_run(out: str | Path) -> Run:
    """Load a finished run from its folder; nothing else needs to have been called before.

    Args:
        out: The folder ``run_recipe`` or ``bayesdrop train`` wrote.

    Raises:
        CheckpointError: If a file is missing, damaged or of something else.
        ConfigError: If ``recipe.json`` does not describe a run.
    """
    out = Path(out)
    description = read_description(out)
    try:
        recipe = Recipe.from_dict(description["recipe"])
        data, seed = str(description["data"]), int(description["seed"])
        num_classes, validation = int(description["num_classes"]), description["validation"]
        image_shape = tuple(int(size) for size in description["image_shape"])
        num_words = description.get("num_words")
        num_words = None if num_words is None else int(num_words)
        if validation is not None and not is_whole(validation):
            raise TypeError(f"validation={validation!r}")
        if not image_shape or min(num_words or 1, num_classes, *image_shape) < 1:
            raise ValueError(f"num_classes={num_classes}, image_shape={image_shape}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"run {out}",
            expected="recipe.json with recipe, data, seed, num_classes, image_shape",
            got=f"{type(error).__name__}: {error}",
            hint="Was it edited?",
        ) from error
    if not (out / "model.pt").exists():
        raise CheckpointError(
            f"run {out}",
            expected="a finished run with model.pt",
            got="one that was interrupted",
            hint="Run the same 'bayesdrop train' command again: it continues.",
        )
    vocabulary = None if num_words is None else read_vocabulary(out, num_words)
    check_size(recipe, num_classes, image_shape, out / "model.pt", num_words)
    plain: BayesianNetwork | None = None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = assemble(recipe, num_classes, image_shape, num_words)
        for index, stage in enumerate(recipe.stages):
            network = network_of(recipe, index, network)
            bnn = BayesianNetwork(network, Categorical(), 1)
            last = stage is recipe.stages[-1]
            if last or not stage.dropout:
                path = out / "model.pt" if last else out / stage.name / "model.pt"
                checkpoint.load(bnn, path).eval()
                plain = plain if last else bnn
    history = read_history(out / "history.json", [stage.name for stage in recipe.stages])
    return Run(recipe, data, validation, seed, image_shape, bnn, plain, history, vocabulary)


def _first_network(recipe: Recipe, splits: DataSplits, seed: int) -> nn.Module:
    """Return the plain network of a recipe, with the initial weights of a seed."""
    torch.manual_seed(seed)
    num_words = None if splits.vocabulary is None else len(splits.vocabulary)
    network = build_network(recipe, splits.num_classes, splits.image_shape, num_words)
    for module in network.modules():
        if isinstance(module, networks.Center):
            module.set_mean(splits.train[0])
    return network


def _train(
    bnn: BayesianNetwork,
    recipe: Recipe,
    stage: Stage,
    splits: DataSplits,
    folder: Path,
    seed: int,
    progress: bool,
    callbacks: tuple[Callback, ...],
) -> None:
    batch_size = min(stage.batch_size, len(splits.train[1]))
    result = fit(
        bnn,
        augmented_loader(*splits.train, batch_size) if recipe.augment else splits.train,
        validation=splits.validation,
        epochs=stage.epochs,
        batch_size=batch_size,
        learning_rate=stage.learning_rate,
        variational_learning_rate=stage.variational_learning_rate,
        weight_decay=stage.weight_decay,
        schedule=stage.schedule(),
        kl_weight=warm_up(stage.kl_warm_up) if stage.kl_warm_up else None,
        compact_every=stage.compact_every,
        num_masks=stage.num_masks,
        objective=None if stage.objective is None else SCORE_FUNCTIONS[stage.objective],
        buffers=stage.buffer_schedules(),
        private=stage.private(),
        seed=seed,
        checkpoint_dir=folder,
        progress=progress,
        callbacks=callbacks,
    )
    if stage.dependent:
        prune_unused_units(bnn, splits.train)
    # model.pt comes last: it is the sign that the stage is finished.
    write_history(folder / "history.json", {stage.name: result.history})
    checkpoint.save(bnn, folder / "model.pt")
    (folder / "training.pt").unlink(missing_ok=True)


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            "run_recipe",
            expected="a device that torch can use here",
            got=f"{str(device)!r} ({first_line(error)})",
            hint="Use 'cpu', or 'cuda' with a CUDA build of torch and a GPU.",
        ) from error
