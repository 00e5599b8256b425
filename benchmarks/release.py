"""Makes one of the small models that come with the package: half precision, with a page that says what it is.

    python benchmarks/release.py RUN NAME --about "An encoder of ..."

writes mae_lite/pretrained/NAME/ from a finished run, after a check that the model computes the same there as in the
run: the largest difference stands on its page, and a classifier's accuracy is that of the half precision.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mae_lite
from mae_lite import config, costs, files, shipped
from mae_lite.evaluation import incoming
from mae_lite.report import repeat

FORM = "timm-half"


def commands(run: Path) -> list[str]:
    """Return the commands that make a run, the ones that it starts from first."""
    record, recipe = incoming.described(run, "a run folder")
    kind = "finetune" if recipe.start == "pretrained" else "pretrain"
    words = ["mae-lite", kind, recipe.name, "--data", Path(record["data"]).name, *repeat.changes(recipe)]
    before: list[str] = []
    for flag in ("init", "teacher"):
        if record.get(flag):
            ours = record[flag].startswith(shipped.PREFIX)
            before += [] if ours else commands(Path(record[flag]))
            words += [f"--{flag}", record[flag] if ours else f"runs/{Path(record[flag]).name}"]
    return [*before, shlex.join([*words, "--out", f"runs/{run.name}"])]


def page(run: Path, name: str, about: str, found: dict[str, object], size: int) -> str:
    """Return the page of a model."""
    record, recipe = incoming.described(run, "a run folder")
    encoder = recipe.plain_encoder
    lines = [
        f"# {name}",
        "",
        about,
        "",
        f"- Encoder: Vision Transformer, {encoder.depth} blocks of width {encoder.width}, {encoder.num_heads} heads, "
        f"patches of {encoder.patch_size} px; {costs.encoder_parameters(encoder) / 1e6:.2f} M parameters, "
        f"{size / 1e6:.2f} MB in half precision.",
        f"- Input: {encoder.channels} x {encoder.image_size} x {encoder.image_size}, mean {record_mean(recipe)}.",
    ]
    if found["accuracy"] is not None:
        lines.append(
            f"- Top-1 accuracy: {100 * float(str(found['accuracy'])):.1f} % of the {found['images']:,} "
            f"{found['split']} images, {len(record['classes'])} classes."
        )
    lines += [
        f"- Largest difference from the run in float32, as a share of the largest output: {found['difference']:.1e}.",
        "- Licence: Apache-2.0.",
        "",
        "Made with:",
        "",
        "```",
        *commands(run),
        "```",
        "",
        "Used with:",
        "",
        "```python",
        "import mae_lite",
        "",
        f'model = mae_lite.load_{"classifier" if found["accuracy"] is not None else "encoder"}("pretrained:{name}")',
        "```",
        "",
        f'or `timm.create_model("local-dir:FOLDER", pretrained=True)` with this folder, or `--init pretrained:{name}`.',
    ]
    return "\n".join(lines) + "\n"


def record_mean(recipe: config.Recipe) -> str:
    """Return mean and deviation of the images."""
    mean, std = (
        ", ".join(f"{value:g}" for value in values) for values in (recipe.augmentation.mean, recipe.augmentation.std)
    )
    return f"{mean}, deviation {std}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, compare, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--about", required=True, help="a sentence that says what it is")
    parser.add_argument("--out", type=Path, default=shipped.FOLDER)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "export"
        exported = mae_lite.export(options.run, place, to=(FORM,), compare=None)
        row = next(form for form in exported["forms"] if form["form"] == FORM)
        contents = {path.name: path.read_bytes() for path in (place / FORM).iterdir() if path.name != files.MANIFEST}
    found = {
        "accuracy": row["accuracy"],
        "images": exported["compared_on"]["images"],
        "split": exported["compared_on"]["split"],
        "difference": row["largest_relative_difference"],
    }
    size = sum(map(len, contents.values()))
    contents["README.md"] = page(options.run, options.name, options.about, found, size).encode()
    files.make_folder(options.out)
    files.publish_folder(options.out / options.name, contents)
    print(f"{options.out / options.name}: {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
