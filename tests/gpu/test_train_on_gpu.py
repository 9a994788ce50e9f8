"""What the CPU can't show: the same recipes through Unsloth's CUDA path. Run with `pytest tests/gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]


def test_the_quickstart_learns_as_on_the_cpu(tmp_path: Path) -> None:
    import fastft

    run = fastft.train(ROOT / "recipes" / "quickstart.yaml", ["export.formats=[]"], output_dir=tmp_path / "run")
    result = run.manifest()["evaluation"]
    assert result["before"]["exact_share"] <= 0.1
    assert result["after"]["exact_share"] >= 0.9


def test_packed_and_padded_runs_reach_the_same_loss(tmp_path: Path) -> None:
    """The same documents in the same number of epochs; packing must not let them see each other."""
    import fastft

    losses = []
    for packing in ("false", "true"):
        overrides = ["export.formats=[]", f"training.packing={packing}", "evaluation.samples=0"]
        run = fastft.train(ROOT / "recipes" / "quickstart.yaml", overrides, output_dir=tmp_path / packing)
        losses.append(run.manifest()["evaluation"]["after"]["loss"])
    assert abs(losses[0] - losses[1]) < 0.1


# What each method's own metric has to do on held-out rows, from before to after its tiny recipe.
IMPROVES = {
    "dpo": ("rewards/margins", 1),
    "orpo": ("rewards/margins", 1),
    "cpo": ("rewards/margins", 1),
    "kto": ("rewards/margins", 1),
    "reward": ("accuracy", 1),
    "grpo": ("reward", 1),
    "rloo": ("reward", 1),
    "pretrain": ("loss", -1),
}


@pytest.mark.parametrize("method", IMPROVES)
def test_every_method_improves_through_the_cuda_path(method: str, tmp_path: Path) -> None:
    import fastft

    recipe = ROOT / "recipes" / method / "tiny.yaml"
    run = fastft.train(recipe, ["export.formats=[]"], output_dir=tmp_path / "run")
    name, sign = IMPROVES[method]
    before, after = ({**run.manifest()["evaluation"][when]} for when in ("before", "after"))
    first, last = (sides["metrics"].get(name, sides.get(name)) for sides in (before, after))
    assert sign * last > sign * first
