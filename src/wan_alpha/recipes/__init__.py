"""Recipes: functions that return a complete configuration. Their docstrings say command, hardware, time and expected result.

A variant of a training is one more recipe, not one more flag: copy the closest file and change its numbers.
"""

from collections.abc import Callable

from wan_alpha.errors import UsageError, did_you_mean
from wan_alpha.recipes.apple_silicon import apple_silicon
from wan_alpha.recipes.recipe import Recipe
from wan_alpha.recipes.tiny import tiny
from wan_alpha.recipes.wan_1_3b import wan_1_3b
from wan_alpha.recipes.wan_14b import wan_14b

RECIPES: dict[str, Callable[[], Recipe]] = {make.__name__: make for make in (tiny, wan_1_3b, wan_14b, apple_silicon)}


def find(name: str) -> Callable[[], Recipe]:
    """The recipe's function, hyphens or underscores; UsageError names the known ones."""
    key = name.replace("-", "_")
    if key not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}", do=did_you_mean(key, list(RECIPES)))
    return RECIPES[key]


def get_recipe(name: str) -> Recipe:
    """The named recipe's configs."""
    return find(name)()
