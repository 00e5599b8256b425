"""The commands. Heavy imports happen inside them, so that help and listings start at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mae_lite import completion as completing
from mae_lite import config, costs, overrides, recipes
from mae_lite.cli_options import (
    BenchRequest,
    CheckOptions,
    DemoOptions,
    ListOptions,
    NoOptions,
    PlanRequest,
    PrepareOptions,
    ReplayOptions,
)
from mae_lite.cli_words import options_from, positional
from mae_lite.compare_commands import layers, report, study, transfer, watch
from mae_lite.errors import EXIT_STOPPED, ConfigError, DataError, in_line
from mae_lite.launch import first_rank
from mae_lite.model_commands import (
    analyze,
    card,
    convert,
    duplicates,
    embed,
    evaluate,
    export,
    predict,
    probe,
    push,
)
from mae_lite.terminal import answer, say


def list_recipes(words: Sequence[str]) -> int:
    """List recipes with parameters, cost, source and the number to expect: mae-lite recipes [WORD...]."""
    asked = [word for word in words if not word.startswith("-") and word.lower() not in ("true", "false")]
    flags = [word for word in words if word not in asked]
    options = options_from(flags, ListOptions, "mae-lite recipes [WORD...] [--json]", {})
    known = recipes.having([word.lower() for word in asked])
    if options.json_output:
        answer([recipe.model_dump(mode="json") for recipe in known], "", as_json=True)
        return 0
    for command, what in (("pretrain", "Pre-training"), ("finetune", "Classifiers")):
        chosen = [recipe for recipe in known if recipes.commands_for(recipe)[0] == command]
        if not chosen:
            continue
        say(f"{what}: mae-lite {command} RECIPE")
        say(f"{'recipe':<30} {'parameters':>10} {'GFLOP to use':>13} {'GFLOP to train':>15}   per image")
        for recipe in chosen:
            use, step = costs.forward_gflops(recipe.encoder), costs.step_gflops(recipe)
            parameters = f"{costs.model_parameters(recipe) / 1e6:.2f} M"
            say(f"{recipe.name:<30} {parameters:>10} {use:>13.3g} {step:>15.3g}")
            say(f"    expect  {recipe.note.expected}\n    source  {recipe.note.source}")
        say()
    say("Parameters are the encoder's, without a head. mae-lite pretrain RECIPE --help shows every setting.")
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
    usage += f"\nmae-lite {command} RECIPE --help shows every setting of a recipe, with its value there"
    name, rest = positional(words, "the recipe", usage, f"mae-lite {command} {fitting[0]} --data DATA")
    recipe = recipes.get(name)
    if command not in recipes.commands_for(recipe):
        other = recipes.commands_for(recipe)[0]
        raise ConfigError(
            f"{command} cannot run the recipe {name!r}",
            found=f"one for mae-lite {other}",
            expected=f"one for mae-lite {command}; mae-lite recipes lists both",
            fix=f"mae-lite {other} {name} --data DATA",
        )
    request = options_from(rest, config.Request, f"mae-lite {command} {name}", recipe.model_dump())
    from mae_lite import training

    outcome = training.run(*request.split())
    if first_rank():
        say(f"{outcome.state} at step {outcome.step} of {outcome.total_steps}: {in_line(outcome.folder)}")
        if outcome.best is not None:
            say(f"at best {100 * outcome.best:.1f} % of the validation images were recognised")
        if outcome.state != "finished":
            say(
                "the same command continues it"
                + (" further with a higher --stop-after-steps" * (outcome.state == "paused"))
            )
    return EXIT_STOPPED if outcome.state == "stopped" else 0


def replay(words: Sequence[str]) -> int:
    """Make an update again that was not finite, and say what broke it: mae-lite replay BUNDLE."""
    usage = "mae-lite replay BUNDLE [--precision fp32] [--data DATA] [--json] [--FIELD VALUE ...]"
    bundle, rest = positional(words, "the bundle", usage, "mae-lite replay runs/NAME/failed/step_10", ReplayOptions)
    options = options_from(rest, ReplayOptions, "mae-lite replay BUNDLE", {})
    from mae_lite.replaying import replay as replaying
    from mae_lite.replaying import words as replay_words

    order = replaying.Order(Path(bundle), **options.model_dump(exclude={"json_output"}))
    found = replaying.replay(order)
    answer(found, replay_words.as_text(found), options.json_output)
    return 0


def bench(words: Sequence[str]) -> int:
    """Time reading and training beside what this machine could do: mae-lite bench RECIPE --data DATA."""
    request = _timed("bench", words, BenchRequest)
    from mae_lite.timing import bench as timing

    found = timing.bench(*request.split(), request.batch, request.seconds)
    answer(found, timing.as_text(found), request.json_output)
    return 0


def plan(words: Sequence[str]) -> int:
    """Forecast time, memory and disk of a recipe here: mae-lite plan RECIPE --data DATA."""
    request = _timed("plan", words, PlanRequest)
    from mae_lite.timing import forecast as timing

    found = timing.forecast(*request.split(), request.seconds)
    answer(found, timing.as_text(found), request.json_output)
    return 0


def _timed(command: str, words: Sequence[str], model: type[overrides.ModelT]) -> overrides.ModelT:
    usage = f"mae-lite {command} RECIPE --data DATA [--seconds 5] [--json] [--FIELD VALUE ...]"
    name, rest = positional(words, "the recipe", usage, f"mae-lite {command} mae-tiny --data DATA")
    return options_from(rest, model, f"mae-lite {command} {name}", recipes.get(name).model_dump())


def check(words: Sequence[str]) -> int:
    """Look at every image of a data set, list the bad ones, preview and advise: mae-lite check DATA."""
    usage = "mae-lite check DATA [--recipe mae-tiny] [--val-data DATA] [--json]"
    data, rest = positional(words, "the data set", usage, "mae-lite check photos", CheckOptions)
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
    answer(summary, checking.as_text(summary), options.json_output)
    return DataError.exit_code if checking.failed(summary, options.on_bad) else 0


def prepare(words: Sequence[str]) -> int:
    """Convert a data set once into a pack, which is read many times faster: mae-lite prepare DATA PACK."""
    usage = "mae-lite prepare DATA PACK [--kind jpeg|uint8] [--side N] [--dry-run] [--verify] [--FIELD VALUE ...]"
    example = "mae-lite prepare photos photos-pack"
    data, rest = positional(words, "the data set", usage, example, PrepareOptions)
    folder, rest = positional(rest, "the folder to write", usage, example)
    options = options_from(
        rest, PrepareOptions, "mae-lite prepare DATA PACK", {"reading": config.Reading().model_dump()}
    )
    from mae_lite.preparing import prepare as preparing
    from mae_lite.preparing.verifying import verified

    if options.verify:
        say("\n".join(verified(Path(folder), options.workers)))
        return 0
    settings = options.model_dump(exclude={"reading", "dry_run", "verify"})
    order = preparing.Order(data, Path(folder), reading=options.reading, **settings)
    say("\n".join((preparing.dry_run if options.dry_run else preparing.prepare)(order)))
    return 0


def demo(words: Sequence[str]) -> int:
    """Show what MAE pre-training gains on handwritten digits, in minutes, with a page to look at."""
    options = options_from(words, DemoOptions, "mae-lite demo", {})
    from mae_lite import demo as road

    steps = options.pretrain_steps, options.finetune_steps
    return road.run(Path(options.out), options.processes, *steps, as_json=options.json_output)


def completion(words: Sequence[str]) -> int:
    """Print what makes a shell complete commands and options: mae-lite completion bash|zsh|fish."""
    usage = "mae-lite completion SHELL"
    shell, rest = positional(words, "the shell", usage, "mae-lite completion bash", NoOptions)
    options_from(rest, NoOptions, usage, {})
    if shell not in completing.SHELLS:
        expected = ", ".join(completing.SHELLS)
        raise ConfigError("the shell", found=repr(shell), expected=expected, fix="mae-lite completion bash")
    say(completing.script(shell, COMMANDS))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo,
    "recipes": list_recipes,
    "check": check,
    "prepare": prepare,
    "pretrain": pretrain,
    "finetune": finetune,
    "replay": replay,
    "bench": bench,
    "plan": plan,
    "evaluate": evaluate,
    "predict": predict,
    "convert": convert,
    "export": export,
    "card": card,
    "push": push,
    "analyze": analyze,
    "probe": probe,
    "embed": embed,
    "duplicates": duplicates,
    "layers": layers,
    "transfer": transfer,
    "report": report,
    "watch": watch,
    "study": study,
    "completion": completion,
}
