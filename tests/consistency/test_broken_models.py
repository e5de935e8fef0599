"""The checker can fail: what the original did is caught, each in its own way; so is production code with a part missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutations import MUTATIONS

from flowloom.testing.broken_models import MODELS
from flowloom.testing.consistency_simulator import simulate_many
from flowloom.testing.consistency_simulator_ports import NO_FAULTS

FRESH = 1500
HARMLESS = 300


@pytest.mark.parametrize("name", MODELS)
def test_model_of_the_original_is_caught_under_its_seed(name: str) -> None:
    model = MODELS[name]
    (result,) = simulate_many([model.seed], model.parts)
    assert result.failures and model.caught_as in result.failures[0]


@pytest.mark.parametrize("name", MODELS)
def test_model_of_the_original_is_caught_among_fresh_seeds(name: str) -> None:
    """So that a kept seed that a change of the simulator has made harmless is not all there is."""
    assert any(result.failures for result in simulate_many(range(FRESH), MODELS[name].parts))


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if not model.always])
def test_model_of_the_original_works_while_nothing_goes_wrong(name: str) -> None:
    """It is the fault that is caught, not the model's being a model."""
    for result in simulate_many(range(40), MODELS[name].parts, NO_FAULTS):
        assert result.failures == ()


@pytest.mark.parametrize("name", [name for name, mutation in MUTATIONS.items() if not mutation.harmless])
def test_production_code_with_a_part_missing_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    mutation.patch(monkeypatch)
    assert any(result.failures for result in simulate_many(range(FRESH), mutation.parts, mutation.faults))


@pytest.mark.parametrize("name", [name for name, mutation in MUTATIONS.items() if mutation.harmless])
def test_part_that_safety_does_not_rest_on_may_be_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    mutation.patch(monkeypatch)
    for result in simulate_many(range(HARMLESS), mutation.parts, mutation.faults):
        assert result.failures == (), f"seed {result.seed}: not so harmless: {mutation.harmless}"


def test_page_that_explains_them_names_every_model_with_its_seed() -> None:
    page = (Path(__file__).parents[2] / "docs/why.md").read_text()
    for name, model in MODELS.items():
        assert f"`{name}`, seed {model.seed}." in page
