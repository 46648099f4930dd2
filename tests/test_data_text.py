"""Laws of texts as a data set: labels and numbers are those of the files, splits are fixed."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.data import Vocabulary, load_text
from bayesdrop.errors import CheckpointError, ConfigError, DataError

WORDS = {"bad": "Dull, and long", "good": 'A "fine" film,\nindeed'}


def table(path, count=20):
    lines = ["id,text,label"]
    for number in range(count):
        for name, text in WORDS.items():
            quoted = f"{text} w{number}".replace('"', '""')
            lines.append(f'{number},"{quoted}",{name}')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def numbers(data, pair):
    """Which texts are in a part: the number after ``w``, as far as the vocabulary has it."""
    ids = pair[0]["input_ids"]
    names = ["", "?", *data.vocabulary.tokens]
    return [[names[i] for i in row if i] for row in ids.tolist()]


def test_a_table_has_its_texts_labels_and_fixed_splits(tmp_path):
    path = table(tmp_path / "reviews.csv")
    data, again = load_text(path, length=8), load_text(path, length=8)
    assert data.class_names == ("bad", "good") and data.num_classes == 2
    parts = data.train, data.validation, data.test
    assert [len(labels) for _, labels in parts] == [29, 3, 8]
    assert data.test[1].bincount().tolist() == [4, 4]
    for pair in parts:
        for words, label in zip(numbers(data, pair), pair[1].tolist(), strict=True):
            expected = [
                ["dull", ",", "and", "long"],
                ["a", '"', "fine", '"', "film", ",", "indeed"],
            ]
            assert words[:-1] == expected[label]
    assert torch.equal(data.test[0]["input_ids"], again.test[0]["input_ids"])
    # The numbers of texts that training does not have are unknown.
    seen = {words[-1] for words in numbers(data, data.train)}
    assert "?" not in seen
    unseen = {token for token in (f"w{i}" for i in range(20)) if token not in seen}
    assert unseen.isdisjoint(data.vocabulary.tokens)


def test_padding_has_no_mask_and_what_is_longer_is_cut(tmp_path):
    vocabulary = Vocabulary.of(["so so good", "so bad"])
    found = vocabulary.encode(["so bad", "so good so good", ""], length=3)
    assert found["input_ids"].tolist() == [[2, 3, 0], [2, 4, 2], [1, 0, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert len(vocabulary) == 5
    assert Vocabulary.of(["c b b", "a a c a"], most=2).tokens == ("a", "b")
    assert Vocabulary.of(["c b b", "a a a"], fewest=2).tokens == ("a", "b")
    assert Vocabulary.of(["é"], "byte").encode(["é"], length=3)["input_ids"].tolist() == [
        [0xC3 + 2, 0xA9 + 2, 0]
    ]
    assert Vocabulary.of(["aab"], "character").encode(["ba?"], length=3)["input_ids"].tolist() == [
        [3, 2, 1]
    ]
    saved = Vocabulary.load(vocabulary.save(tmp_path / "vocabulary.json"))
    assert saved == vocabulary
    (tmp_path / "vocabulary.json").write_text((tmp_path / "vocabulary.json").read_text()[:-9])
    with pytest.raises(CheckpointError):
        Vocabulary.load(tmp_path / "vocabulary.json")


def test_a_folder_of_classes_and_its_own_splits(tmp_path):
    for split, count in (("train", 10), ("test", 3)):
        for name, text in WORDS.items():
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / split / name / f"{number}.txt").write_text(text)
    data = load_text(tmp_path, unit="character", length=5)
    assert data.test[1].tolist() == [0] * 3 + [1] * 3 and len(data.train[1]) == 18
    assert load_text(tmp_path, validation=0).validation is None
    assert len(load_text(tmp_path, most=3, validation=0).vocabulary) == 5
    assert load_text(tmp_path, fewest=11, validation=0).vocabulary.tokens == ('"', ",")
    assert load_text(tmp_path / "test", validation=0).test[1].tolist() != []


class _Mean(nn.Module):
    def __init__(self, words, classes):
        super().__init__()
        self.words = nn.Embedding(words, 16, padding_idx=0)
        self.mask = bd.BetaBernoulliDropout(16)
        self.out = nn.Linear(16, classes)

    def forward(self, input_ids, attention_mask):
        kept = attention_mask.unsqueeze(-1).to(self.out.weight.dtype)
        return self.out(self.mask((self.words(input_ids) * kept).sum(1) / kept.sum(1)))


def test_a_network_learns_from_texts_and_does_not_see_padding(tmp_path):
    data = load_text(table(tmp_path / "reviews.csv"), length=12)
    bnn = bd.BayesianNetwork(
        _Mean(len(data.vocabulary), 2), bd.Categorical(), num_data=len(data.train[1])
    )
    bd.fit(bnn, data.train, epochs=8, learning_rate=0.1, kl_weight=0.1, progress=False)
    assert bd.evaluate(bnn, data.test, sample=False).error == 0.0
    longer = load_text(tmp_path / "reviews.csv", length=20)
    means = [bd.predict(bnn, (d.test[0], None), sample=False).mean for d in (data, longer)]
    torch.testing.assert_close(*means)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,words,label\n1,a,b\n", r"one column 'text'.*Pass text= and label="),
        ("text,label\na,b,c\n", r"expected 2 columns, got 3 in line 2"),
        ('text,label\n"a,b\n', r"quoted texts, got unexpected end of data in line 2"),
        ("text,label\na,x\nb,\n", r"a 'label' in every line, got none in line 3"),
        ("text,label\na,x\nb,x\n", r"at least two classes, got \['x'\]"),
        ("text,label\na,x\nb,y\n", r"at least two texts of every class"),
        ("", r"one column 'text'"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_text(path)


def test_what_is_no_text_is_refused(tmp_path):
    with pytest.raises(DataError, match="nothing of this name"):
        load_text(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"expected CLASS/\*.txt"):
        load_text(tmp_path)
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff\xfe,a\n")
    with pytest.raises(DataError, match="a file of UTF-8"):
        load_text(tmp_path / "a.csv")
    path = table(tmp_path / "b.csv")
    with pytest.raises(ConfigError, match="length of at least 1"):
        load_text(path, length=0)
    with pytest.raises(ConfigError, match="unknown unit of a vocabulary 'words'.*'word'"):
        load_text(path, unit="words")
    with pytest.raises(ConfigError, match="validation to be a share"):
        load_text(path, validation=5)
