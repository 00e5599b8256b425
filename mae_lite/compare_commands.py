"""Commands that compare runs: which blocks matter, pages, studies, transfer. Their heavy imports are inside."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from mae_lite import recipes
from mae_lite.cli_options import (
    LayersRequest,
    ReportOptions,
    WatchOptions,
)
from mae_lite.cli_words import options_from, positional, run_folders, several
from mae_lite.compare_options import StudyOptions, TransferOptions
from mae_lite.errors import EXIT_STOPPED, ConfigError, MaeLiteError, in_line
from mae_lite.terminal import answer, say


def layers(words: Sequence[str]) -> int:
    """Find which blocks carry what pre-training is worth, by fine-tuning: mae-lite layers RUN RECIPE --data DATA."""
    usage = "mae-lite layers RUN RECIPE --data DATA [--keep 0 3 6 9 12] [--seeds 0 1 2] [--FIELD VALUE ...]"
    example = "mae-lite layers runs/NAME finetune-improved --data DATA"
    run, rest = positional(words, "the pre-trained run", usage, example)
    name, rest = positional(rest, "the recipe", usage, example)
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
        say("stopped; what was finished is kept, the same command continues", aside=True)
        return EXIT_STOPPED
    answer(found.numbers(), found.as_text(), request.json_output)
    return 0


def report(words: Sequence[str]) -> int:
    """Write one HTML page about runs and analyses: mae-lite report RUN... [--out report.html]."""
    runs, rest = run_folders(words, "report", ReportOptions)
    options = options_from(rest, ReportOptions, "mae-lite report RUN...", {})
    from mae_lite.report import compose, page

    found = compose.compose(runs, options.title)
    page.write(found, Path(options.out))
    say("\n".join(map(in_line, found.headline)))
    say(f"The page: {in_line(options.out)}")
    return 0


def watch(words: Sequence[str]) -> int:
    """Show runs in a browser of this machine while they go on: mae-lite watch RUN... [--port 8123]."""
    runs, rest = run_folders(words, "watch", WatchOptions)
    options = options_from(rest, WatchOptions, "mae-lite watch RUN...", {})
    from mae_lite.report.watch import Watch

    server = Watch(runs, options.port, options.title)
    say(f"{server.address}  (Ctrl-C ends it)")
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()
    return 0


def study(words: Sequence[str]) -> int:
    """Carry out a whole comparison, with its table and page: mae-lite study NAME [--data DATA] [--dry-run]."""
    from mae_lite import studies

    usage = "mae-lite study NAME [RECIPE] [--data DATA] [--scale smoke|cpu|full] [--dry-run] [--FIELD VALUE ...]"
    known = f"{usage}\nstudies: {', '.join(studies.names())}; ablation takes the RECIPE that it varies"
    name, rest = positional(words, "the study", known, "mae-lite study digits", StudyOptions)
    subject, rest = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (None, rest)
    options = options_from(rest, StudyOptions, "mae-lite study NAME", {})
    from mae_lite.overrides import flags
    from mae_lite.studying import study as studying

    value = studies.get(name, options.scale, subject).shorter(options.updates, options.seeds)
    if options.data is not None and value.data not in (None, options.data):
        fix = "drop --data; docs/studies.md says how to make a study of your own"
        raise ConfigError(f"study {value.name!r} brings its own images", found=f"--data {options.data}", fix=fix)
    data = options.data or value.data or ("DATA" if options.dry_run else None)
    order = studying.order(value, data, options.out, options.processes)
    if options.slurm:
        named = (name,) if subject is None else (name, subject)
        again = flags(options.model_dump(exclude={"slurm", "slurm_options"}, exclude_defaults=True).items())
        say(studying.submit(order, options.slurm_options, ("study", *named, *again, "--only-report")))
        return 0
    if options.dry_run:
        planned = studying.plan(order)
        answer(planned.numbers(), planned.as_text(), options.json_output)
        return 0
    if options.only_report:
        found = studying.only_report(order)
        answer(found, studying.as_text(order, found), options.json_output)
        return 0
    return studying.run(order, options.json_output)


def transfer(words: Sequence[str]) -> int:
    """Fine-tune weights on every set of a suite, each at its best settings: mae-lite transfer RUN... [--dry-run]."""
    from mae_lite.studies import suites

    usage = "mae-lite transfer RUN... [--suite paper] [--sources FILE] [--sets SET ...] [--dry-run] [--FIELD VALUE ...]"
    known = f"{usage}\nsuites: {', '.join(suites.names())}"
    runs, flags = several(
        words, "the pre-trained run", known, "mae-lite transfer runs/NAME --suite paper", TransferOptions
    )
    options = options_from(flags, TransferOptions, "mae-lite transfer RUN...", {})
    sources = None if options.sources is None else Path(options.sources)
    suite = suites.get(options.suite, sources, options.sets).shorter(options.updates, options.seeds)
    from mae_lite.studying import transfer as transferring

    order = transferring.Order(suite, tuple(runs), Path(options.out), options.processes, options.heads)
    if options.dry_run:
        planned = transferring.plan(order)
        answer(planned.numbers(), planned.as_text(), options.json_output)
        return 0
    error: MaeLiteError | None = None
    if options.only_report:
        found = transferring.only_report(order)
    else:
        found, error = transferring.run(order)
    answer(found, transferring.as_text(order, found), options.json_output)
    if error is not None:
        raise error
    return 0
