"""The commands. Heavy imports happen inside them, so that help and listings start at once."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mae_lite import config, costs, overrides, recipes
from mae_lite.cli_options import (
    AnalyzeOptions,
    BenchRequest,
    CheckOptions,
    ConvertOptions,
    DemoOptions,
    EmbedOptions,
    EvaluateOptions,
    LayersRequest,
    ListOptions,
    PlanRequest,
    PrepareOptions,
    ProbeOptions,
    ReportOptions,
    StudyOptions,
    WatchOptions,
)
from mae_lite.cli_words import options_from, positional, run_folders
from mae_lite.errors import EXIT_STOPPED, ConfigError, DataError, plain


def first_rank() -> bool:
    """Say whether this process is the one of several that speaks."""
    # torchrun sets RANK, Fabric's own launcher LOCAL_RANK
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def list_recipes(words: Sequence[str]) -> int:
    """List recipes with parameters, cost, source and the number to expect."""
    options = options_from(words, ListOptions, "mae-lite recipes", {})
    known = [recipes.get(name) for name in recipes.names()]
    if options.json_output:
        print(json.dumps([recipe.model_dump(mode="json") for recipe in known], indent=2))
        return 0
    print(f"{'recipe':<26} {'parameters':>10} {'GFLOP to use':>13} {'GFLOP to train':>15}   per image")
    for recipe in known:
        use, step = costs.forward_gflops(recipe.encoder), costs.step_gflops(recipe)
        parameters = f"{costs.model_parameters(recipe) / 1e6:.2f} M"
        print(f"{recipe.name:<26} {parameters:>10} {use:>13.3g} {step:>15.3g}")
        print(f"    expect  {recipe.note.expected}\n    source  {recipe.note.source}")
    print("\nParameters are the encoder's, without a head. mae-lite pretrain RECIPE --help shows every setting.")
    return 0


def pretrain(words: Sequence[str]) -> int:
    """Pre-train an encoder, without labels or with: mae-lite pretrain RECIPE --data DATA."""
    return _train("pretrain", words)


def finetune(words: Sequence[str]) -> int:
    """Train a classifier: mae-lite finetune RECIPE --data DATA [--init RUN]."""
    return _train("finetune", words)


def _train(command: str, words: Sequence[str]) -> int:
    fitting = [name for name in recipes.names() if command in recipes.commands_for(recipes.get(name))]
    usage = f"mae-lite {command} RECIPE --data DATA [--FIELD VALUE ...]\nrecipes: {', '.join(fitting)}"
    name, rest = positional(words, "the recipe", usage, f"mae-lite {command} {fitting[0]} --data DATA")
    recipe = recipes.get(name)
    if command not in recipes.commands_for(recipe):
        other = recipes.commands_for(recipe)[0]
        raise ConfigError(f"{command} cannot run the recipe {name!r}", fix=f"mae-lite {other} {name} --data DATA")
    request = options_from(rest, config.Request, f"mae-lite {command} {name}", recipe.model_dump())
    from mae_lite import training

    outcome = training.run(*request.split())
    if first_rank():
        print(f"{outcome.state} at step {outcome.step} of {outcome.total_steps}: {outcome.folder}")
        if outcome.state != "finished":
            print(
                "the same command continues it"
                + (" further with a higher --stop-after-steps" * (outcome.state == "paused"))
            )
    return EXIT_STOPPED if outcome.state == "stopped" else 0


def bench(words: Sequence[str]) -> int:
    """Time reading and training beside what this machine could do: mae-lite bench RECIPE --data DATA."""
    request = _timed("bench", words, BenchRequest)
    from mae_lite.timing import bench as timing

    found = timing.bench(*request.split(), request.batch, request.seconds)
    print(json.dumps(found, indent=2) if request.json_output else plain(timing.as_text(found)))
    return 0


def plan(words: Sequence[str]) -> int:
    """Forecast time, memory and disk of a recipe here: mae-lite plan RECIPE --data DATA."""
    request = _timed("plan", words, PlanRequest)
    from mae_lite.timing import forecast as timing

    found = timing.forecast(*request.split(), request.seconds)
    print(json.dumps(found, indent=2) if request.json_output else plain(timing.as_text(found)))
    return 0


def _timed(command: str, words: Sequence[str], model: type[overrides.ModelT]) -> overrides.ModelT:
    usage = f"mae-lite {command} RECIPE --data DATA [--seconds 5] [--json] [--FIELD VALUE ...]"
    name, rest = positional(words, "the recipe", usage, f"mae-lite {command} mae-tiny --data DATA")
    rest = ["--json-output" if word == "--json" else word for word in rest]
    return options_from(rest, model, f"mae-lite {command} {name}", recipes.get(name).model_dump())


def evaluate(words: Sequence[str]) -> int:
    """Measure the exact accuracy of a classifier: mae-lite evaluate RUN [--data DATA]."""
    usage = "mae-lite evaluate RUN [--data DATA] [--split test] [--json-output]"
    run, rest = positional(words, "the run folder", usage, "mae-lite evaluate runs/NAME")
    options = options_from(rest, EvaluateOptions, "mae-lite evaluate RUN", {})
    from mae_lite.evaluation import classifier

    result = classifier.evaluate_run(
        Path(run),
        options.data,
        options.split,
        batch_size=options.batch_size,
        workers=options.workers,
        on_bad=options.on_bad,
        allow_empty=options.allow_empty_classes,
    )
    print(json.dumps(result, indent=2) if options.json_output else classifier.as_text(result))
    return 0


def check(words: Sequence[str]) -> int:
    """Look at every image of a data set, list the bad ones, preview and advise: mae-lite check DATA."""
    usage = "mae-lite check DATA [--recipe mae-tiny] [--val-data DATA] [--json]"
    data, rest = positional(words, "the data set", usage, "mae-lite check photos")
    rest = ["--json-output" if word == "--json" else word for word in rest]
    options = options_from(rest, CheckOptions, usage, {"reading": config.Reading().model_dump()})
    from mae_lite.checking import check as checking

    recipe = recipes.derive(recipes.get(options.recipe), reading=options.reading.model_dump())
    if options.channels is not None and options.channels != recipe.encoder.channels:
        grey: dict[str, Any] = {"mean": (0.5,) * options.channels, "std": (0.25,) * options.channels}
        grey |= {} if options.channels == 3 else {"randaugment": None}
        recipe = recipes.derive(recipe, encoder={"channels": options.channels}, augmentation=grey)
    order = checking.Order(
        data=data,
        recipe=recipe,
        out=Path(options.out),
        val_data=options.val_data,
        sample=options.sample,
        workers=options.workers,
        save_hashes=None if options.save_hashes is None else Path(options.save_hashes),
        compare_hashes=None if options.compare_hashes is None else Path(options.compare_hashes),
    )
    summary = checking.check(order)
    print(json.dumps(summary, indent=2) if options.json_output else plain(checking.as_text(summary)))
    return DataError.exit_code if checking.failed(summary, options.on_bad) else 0


def prepare(words: Sequence[str]) -> int:
    """Convert a data set once into a pack, which is read many times faster: mae-lite prepare DATA PACK."""
    usage = "mae-lite prepare DATA PACK [--kind jpeg|uint8] [--side N] [--dry-run] [--verify] [--FIELD VALUE ...]"
    data, rest = positional(words, "the data set", usage, "mae-lite prepare photos photos-pack")
    folder, rest = positional(rest, "the folder to write", usage, "mae-lite prepare photos photos-pack")
    options = options_from(
        rest, PrepareOptions, "mae-lite prepare DATA PACK", {"reading": config.Reading().model_dump()}
    )
    from mae_lite.preparing import prepare as preparing
    from mae_lite.preparing.verifying import verified

    if options.verify:
        print(plain("\n".join(verified(Path(folder), options.workers))))
        return 0
    settings = options.model_dump(exclude={"reading", "dry_run", "verify"})
    order = preparing.Order(data, Path(folder), reading=options.reading, **settings)
    print(plain("\n".join((preparing.dry_run if options.dry_run else preparing.prepare)(order))))
    return 0


def convert(words: Sequence[str]) -> int:
    """Bring weights in from other libraries, or take them out: mae-lite convert IN OUT [--to timm]."""
    usage = "mae-lite convert IN OUT [--to ours|timm|huggingface] [--heads N] [--FIELD VALUE ...]"
    example = "mae-lite convert checkpoint.pth converted"
    source, rest = positional(words, "the checkpoint", usage, example)
    out, rest = positional(rest, "the folder to write", usage, example)
    options = options_from(rest, ConvertOptions, "mae-lite convert IN OUT", {})
    from mae_lite import converting

    lines = converting.convert(converting.Order(source=source, out=Path(out), **options.model_dump()))
    print(plain("\n".join(lines)))
    return 0


def analyze(words: Sequence[str]) -> int:
    """Look into encoders, layer by layer, with figures: mae-lite analyze MODEL... --data DATA."""
    usage = "mae-lite analyze MODEL... --data DATA [--images 1000] [--out analysis] [--FIELD VALUE ...]"
    first, rest = positional(words, "the model", usage, "mae-lite analyze runs/NAME --data photos")
    count = next((place for place, word in enumerate(rest) if word.startswith("-")), len(rest))
    flags = ["--json-output" if word == "--json" else word for word in rest[count:]]
    base = {"reading": config.Reading().model_dump()}
    options = options_from(flags, AnalyzeOptions, "mae-lite analyze MODEL...", base)
    from mae_lite.analysis import analyze as analysis

    settings = options.model_dump(exclude={"reading", "out", "json_output"})
    order = analysis.Order((first, *rest[:count]), out=Path(options.out), reading=options.reading, **settings)
    summary = analysis.analyze(order)
    print(json.dumps(summary, indent=2) if options.json_output else plain(analysis.as_text(summary)))
    return 0


def probe(words: Sequence[str]) -> int:
    """Measure what frozen features are worth, linear and nearest neighbours: mae-lite probe MODEL... --data DATA."""
    usage = "mae-lite probe MODEL... --data DATA [--labels-per-class N] [--blocks] [--out probe] [--FIELD VALUE ...]"
    first, rest = positional(words, "the model", usage, "mae-lite probe runs/NAME --data labelled")
    count = next((place for place, word in enumerate(rest) if word.startswith("-")), len(rest))
    flags = ["--json-output" if word == "--json" else word for word in rest[count:]]
    base = {"reading": config.Reading().model_dump()}
    options = options_from(flags, ProbeOptions, "mae-lite probe MODEL...", base)
    from mae_lite.frozen import probe as probing
    from mae_lite.frozen import writing

    summary = probing.probed((first, *rest[:count]), options, Path(options.out))
    if summary is not None:  # the first of several processes
        print(json.dumps(summary, indent=2) if options.json_output else plain(writing.as_text(summary)))
    return 0


def embed(words: Sequence[str]) -> int:
    """Write the features of every image to a file: mae-lite embed MODEL --data DATA --out features.parquet."""
    usage = "mae-lite embed MODEL --data DATA --out features.parquet [--token class] [--blocks] [--FIELD VALUE ...]"
    model, rest = positional(words, "the model", usage, "mae-lite embed runs/NAME --data photos --out photos.parquet")
    base = {"reading": config.Reading().model_dump()}
    options = options_from(rest, EmbedOptions, "mae-lite embed MODEL", {"out": "features.parquet", **base})
    from mae_lite.frozen import embed as embedding

    said = embedding.embedded_to(model, options, Path(options.out))
    if said:
        print(plain(said))
    return 0


def layers(words: Sequence[str]) -> int:
    """Find which blocks carry what pre-training is worth, by fine-tuning: mae-lite layers RUN RECIPE --data DATA."""
    usage = "mae-lite layers RUN RECIPE --data DATA [--keep 0 3 6 9 12] [--seeds 0 1 2] [--FIELD VALUE ...]"
    example = "mae-lite layers runs/NAME finetune-improved --data DATA"
    run, rest = positional(words, "the pre-trained run", usage, example)
    name, rest = positional(rest, "the recipe", usage, example)
    rest = ["--json-output" if word == "--json" else word for word in rest]
    recipe = recipes.get(name)
    request = options_from(rest, LayersRequest, f"mae-lite layers {run} {name}", {**recipe.model_dump(), "init": run})
    for flag, given, fix in (
        ("init", request.init != run, "the run is given once"),
        ("seed", request.seed != recipe.seed, "use --seeds"),
    ):
        if given:
            raise ConfigError(f"--{flag} is not read here", fix=f"drop --{flag}; {fix}")
    from mae_lite.layer_importance import measure as layer_importance

    order = layer_importance.Order(
        *request.split(),
        keep=request.keep,
        seeds=request.seeds,
        test_data=request.test_data,
        test_split=request.test_split,
        processes=request.processes,
    )
    try:
        found = layer_importance.measure(order)
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, the same command continues", file=sys.stderr)
        return EXIT_STOPPED
    print(json.dumps(found.numbers(), indent=2) if request.json_output else plain(found.as_text()))
    return 0


def report(words: Sequence[str]) -> int:
    """Write one HTML page about runs: mae-lite report RUN... [--out report.html]."""
    runs, rest = run_folders(words, "report")
    options = options_from(rest, ReportOptions, "mae-lite report RUN...", {})
    from mae_lite.report import compose, page

    found = compose.compose(runs, options.title)
    page.write(found, Path(options.out))
    print("\n".join(found.headline))
    print(f"The page: {options.out}")
    return 0


def watch(words: Sequence[str]) -> int:
    """Show runs in a browser of this machine while they go on: mae-lite watch RUN... [--port 8123]."""
    runs, rest = run_folders(words, "watch")
    options = options_from(rest, WatchOptions, "mae-lite watch RUN...", {})
    from mae_lite.report.watch import Watch

    server = Watch(runs, options.port, options.title)
    print(f"{server.address}  (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()
    return 0


def study(words: Sequence[str]) -> int:
    """Carry out a whole comparison, with its table and page: mae-lite study NAME [--data DATA] [--dry-run]."""
    from mae_lite import studies

    usage = "mae-lite study NAME [RECIPE] [--data DATA] [--scale smoke|cpu|full] [--dry-run] [--FIELD VALUE ...]"
    known = f"{usage}\nstudies: {', '.join(studies.names())}; ablation takes the RECIPE that it varies"
    name, rest = positional(words, "the study", known, "mae-lite study digits")
    subject, rest = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (None, rest)
    options = options_from(rest, StudyOptions, "mae-lite study NAME", {})
    from mae_lite.report.repeat import flags
    from mae_lite.studying import study as studying

    value = studies.get(name, options.scale, subject).shorter(options.updates, options.seeds)
    data = options.data or value.data or ("DATA" if options.dry_run else None)
    order = studying.order(value, data, options.out, options.processes)
    if options.slurm:
        named = (name,) if subject is None else (name, subject)
        again = flags(options.model_dump(exclude={"slurm", "slurm_options"}, exclude_defaults=True).items())
        print(plain(studying.submit(order, options.slurm_options, ("study", *named, *again, "--only-report"))))
        return 0
    if options.dry_run or options.only_report:
        print(plain(studying.plan(order) if options.dry_run else "\n".join(studying.only_report(order))))
        return 0
    return studying.run(order)


def demo(words: Sequence[str]) -> int:
    """Show what MAE pre-training gains on handwritten digits, in minutes, with a page to look at."""
    options = options_from(words, DemoOptions, "mae-lite demo", {})
    from mae_lite import demo as road

    return road.run(Path(options.out), options.processes, options.pretrain_steps, options.finetune_steps)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo,
    "recipes": list_recipes,
    "check": check,
    "prepare": prepare,
    "pretrain": pretrain,
    "finetune": finetune,
    "bench": bench,
    "plan": plan,
    "evaluate": evaluate,
    "convert": convert,
    "analyze": analyze,
    "probe": probe,
    "embed": embed,
    "layers": layers,
    "report": report,
    "watch": watch,
    "study": study,
}
