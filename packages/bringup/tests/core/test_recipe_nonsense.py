"""Recipes that contradict themselves: refused before anything is asked of an index, and the place is named."""

from __future__ import annotations

import pytest

from bringup.errors import BringupError
from bringup.recipes import parse
from bringup.recipes.fields import contradicts

HEAD = """\
schema = "bringup/recipe/1"
name = "mine"
title = { en = "t", zh = "t" }
summary = { en = "s", zh = "s" }
"""
BASE = HEAD + 'python = ">=3.10"\ntorch = { range = ">=2.0" }\n'
SOURCE = f'source = {{ repository = "https://example.org/x.git", commit = "{"0" * 40}", licence = "MIT" }}\n'
PATCH = (
    '[[patches]]\nid = "ID"\nfiles = "*.py"\nfault = "x"\nkind = "replace"\nwhy = { en = "a", zh = "a" }\n'
)
SCATTER = '[[extensions]]\ndistribution = "torch-scatter"\nimports = ["torch_scatter"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + 'python = ">=3.12,<3.10"\ntorch = { range = ">=2.0" }\n', "no version fits '>=3.12,<3.10'"),
        (HEAD + 'python = ">=3.10"\ntorch = { range = ">=3,<2" }\n', "no version fits"),
        (BASE + 'requirements = [{ spec = "torch==1.0" }]\n', "stands under torch"),
        (BASE + 'requirements = [{ spec = "x>=2,<1" }]\n', "no version fits"),
        (BASE + 'requirements = [{ spec = "x @ https://example.org/x.whl" }]\n', "names an address"),
        (BASE + SOURCE + PATCH.replace("ID", "source"), "a step of every plan has this name"),
        (BASE + SOURCE + PATCH.replace("ID", "p") * 2, "stands there twice"),
        (BASE + SOURCE + PATCH.replace('"*.py"', '"/etc/*"').replace("ID", "p"), "leads outside"),
        (BASE + SOURCE + PATCH.replace('"x"', '"("').replace("ID", "p"), "no regular expression"),
        (BASE + SOURCE.replace("https://", "ext::"), "no address"),
        (BASE + '[[weights]]\nname = "w"\nurl = "https://example.org/a"\n' * 2, "stands there twice"),
        (BASE + SCATTER + 'ways = ["drop"]\n' + SCATTER + 'ways = ["drop"]\n', "stands there twice"),
        (BASE + SCATTER + "ways = []\n", "at least 1"),
        (
            BASE + SCATTER + 'ways = ["drop"]\n[[probes]]\nname = "i"\nimports = ["torch_scatter"]\n',
            "probe i imports torch_scatter",
        ),
        (BASE + '[[probes]]\nname = "i"\nprobe = "banana"\n', "no probe 'banana'"),
        (
            BASE + '[[extensions]]\ndistribution = "x"\nways = ["build"]\n'
            'build = { folder = "x", licence = "MIT", backend = "cmake" }\n',
            "no source to take the folder of",
        ),
        (BASE + 'versions = { other = { idna = "1" } }\n', "profile 'other' is used by versions"),
        (BASE + 'versions = { default = { idna = "one" } }\n', "'one' is no version"),
    ],
)
def test_a_recipe_that_contradicts_itself(text: str, said: str) -> None:
    with pytest.raises(BringupError) as refused:
        parse(text, "mine.toml")
    assert refused.value.id == "recipe-invalid" and said in str(refused.value.parameters["text"])


@pytest.mark.parametrize(
    ("text", "is_empty"),
    [
        ("", False),
        (">=2.0,<3", False),
        (">2.0,<2.1", False),
        ("~=2.1,!=2.1.0", False),
        ("==2.*", False),
        ("<=2.0,>=2.0", False),
        ("==2.11.0+cu130", False),
        (">=3.8,<3.11,!=3.9.*", False),
        ("<2.0", False),
        ("<1.0.0", False),
        ("<2.0,!=0", False),
        (">=3,<2.0", True),
        ("<0", True),
        (">=2,<2", True),
        ("==2.0,==2.1", True),
        ("==2.0,!=2.0", True),
    ],
)
def test_ranges_that_nothing_fits(text: str, is_empty: bool) -> None:
    assert contradicts(text) is is_empty
