"""Data sets by name, and texts from files, as tensors in memory with fixed splits."""

from bayesdrop.data.classification import DataSplits, load_images, load_ood, parse_name
from bayesdrop.data.loading import load_data
from bayesdrop.data.regression import RegressionSource, RegressionSplit, regression_sets
from bayesdrop.data.sources import DataSource, Pair, data_root, register, registry
from bayesdrop.data.text import TextSplits, load_text
from bayesdrop.data.text_source import is_text
from bayesdrop.data.tokenizer import AnyVocabulary, Tokenizer, load_vocabulary
from bayesdrop.data.vocabulary import Vocabulary

__all__ = [
    "AnyVocabulary",
    "DataSource",
    "DataSplits",
    "Pair",
    "RegressionSource",
    "RegressionSplit",
    "TextSplits",
    "Tokenizer",
    "Vocabulary",
    "data_root",
    "is_text",
    "load_data",
    "load_images",
    "load_ood",
    "load_text",
    "load_vocabulary",
    "parse_name",
    "register",
    "registry",
    "regression_sets",
]
