"""The examples of docs/loops.md that need a library, for the tests that have it."""

import re
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "loops.md"


def run_block(word, **names):
    """Run the example in which a word stands, and return the names it leaves.

    Args:
        word: The word.
        **names: What stands above the example.
    """
    blocks = re.findall(r"^```py\n(.*?)^```", _PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if word in block)
    exec(compile(block, str(_PAGE), "exec"), names)
    return names
