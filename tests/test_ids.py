from __future__ import annotations

import pytest

from ftplatform.core.errors import InvalidKey
from ftplatform.core.ids import BaseKey, DatasetKey, LineKey, RecipeKey, served_name

BAD_SLUGS = ["", "..", "a|b", "a.b", "a_b", "-a", "a-", "A", "a" * 41, "a/b", "a b", "ä", "a\n"]


@pytest.mark.parametrize("slug", BAD_SLUGS)
def test_a_bad_name_is_refused_everywhere_it_could_enter(slug: str) -> None:
    for build in (
        lambda: DatasetKey(slug, "ok"),
        lambda: DatasetKey("ok", slug),
        lambda: RecipeKey(slug, 1),
        lambda: BaseKey(slug, "0" * 8),
    ):
        with pytest.raises(InvalidKey):
            build()


@pytest.mark.parametrize("text", ["acme", "acme/", "/x", "acme/support/more", "acme/su|pport", "../support", "acme/.."])
def test_a_dataset_key_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey, match=r"accepted|'/'"):
        DatasetKey.parse(text)


@pytest.mark.parametrize("text", ["r", "r@", "r@0", "r@01", "r@+1", "r@ 1", "r@1.0", "r@-1", "r@1000000", "@1"])
def test_a_recipe_key_has_exactly_one_spelling(text: str) -> None:
    with pytest.raises(InvalidKey):
        RecipeKey.parse(text)


def test_keys_survive_the_round_trip() -> None:
    line = LineKey.parse("acme/support|tiny-lora@3")
    assert str(line) == "acme/support|tiny-lora@3"
    assert (line.dataset.tenant, line.recipe.number) == ("acme", 3)
    assert line.dataset.registered_model == "acme.support"


def test_two_datasets_cannot_share_a_registered_model() -> None:
    """``a/b.c`` and ``a.b/c`` would both be ``a.b.c``; a dot in a slug is refused, so neither exists."""
    for text in ("a/b.c", "a.b/c"):
        with pytest.raises(InvalidKey):
            DatasetKey.parse(text)


def test_a_served_name_is_made_of_the_bytes() -> None:
    base, dataset = BaseKey("starter", "0" * 8), DatasetKey("acme", "support")
    assert served_name(base, dataset, "ab" * 32) == "ft:starter:acme:support:abababab"
    assert served_name(base, dataset, "cd" * 32) != served_name(base, dataset, "ab" * 32)
