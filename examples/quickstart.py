"""Train, export and ask, from Python. Run it from anywhere: python examples/quickstart.py"""

from __future__ import annotations

from pathlib import Path

import fastft

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "quickstart.yaml"


def main() -> None:
    recipe = fastft.load_recipe(RECIPE, ["export.formats=[]"])  # everything is checked here, nothing runs yet
    run = fastft.train(recipe, output_dir="runs/example")
    print("held-out answers right:", run.manifest()["evaluation"]["after"]["exact_share"])

    print(run.chat(recipe.evaluation.prompts[0]))

    (gguf,) = run.export(["gguf"], "q8_0")  # made in a process of its own, and verified in llama.cpp
    print("ready for llama.cpp and Ollama:", gguf)


if __name__ == "__main__":
    main()
