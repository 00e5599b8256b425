"""Tables of recipes, with their costs reckoned by the program, in the place of a comment of a page."""

from __future__ import annotations

import re

from mae_lite import costs, recipes


def filled(text: str) -> str:
    """Return a page with a table instead of each comment ``<!-- recipes: KIND ... -->``, which names methods."""
    return re.sub(r"<!-- recipes: ([\w ]+) -->", lambda found: table(found.group(1).split()), text)


def table(kinds: list[str]) -> str:
    """Return the recipes whose method is of one of ``kinds``: encoder, cost, and what to expect."""
    known = [recipes.get(name) for name in recipes.names()]
    lines = [
        f"| `{recipe.name}` | {costs.model_parameters(recipe) / 1e6:.1f} M | {costs.step_gflops(recipe):.3g} "
        f"| {recipe.epochs:g} | {recipe.note.expected} |"
        for recipe in known
        if recipe.method.kind in kinds and "pretrain" in recipes.commands_for(recipe)
    ]
    head = "| recipe | encoder | GFLOP to train, per image | epochs | expect |\n|---|---|---|---|---|\n"
    return head + "\n".join(lines)
