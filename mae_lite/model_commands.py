"""The commands that look at finished models, and compare them. Heavy imports happen inside them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mae_lite import config, recipes
from mae_lite.cli_options import (
    AnalyzeOptions,
    ConvertOptions,
    DuplicatesOptions,
    EmbedOptions,
    EvaluateOptions,
    LayersRequest,
    PredictOptions,
    ProbeOptions,
    ReportOptions,
    WatchOptions,
)
from mae_lite.cli_words import flags_of, options_from, positional, run_folders, several
from mae_lite.compare_options import StudyOptions, TransferOptions
from mae_lite.errors import EXIT_STOPPED, ConfigError, DataError, MaeLiteError, plain
from mae_lite.export_options import ExportOptions


def evaluate(words: Sequence[str]) -> int:
    """Measure the exact accuracy of a classifier: mae-lite evaluate RUN [--data DATA]."""
    usage = "mae-lite evaluate RUN [--data DATA] [--split test] [--json-output]"
    run, rest = positional(words, "the run folder", usage, "mae-lite evaluate runs/NAME", EvaluateOptions)
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
    print(json.dumps(result, indent=2) if options.json_output else plain(classifier.as_text(result)))
    return 0


def predict(words: Sequence[str]) -> int:
    """Name the most probable classes of images: mae-lite predict MODEL IMAGES... [--top 3] [--out FILE.csv]."""
    usage = "mae-lite predict MODEL IMAGES... [--top 3] [--split test] [--out FILE.csv] [--json] [--FIELD VALUE ...]"
    example = "mae-lite predict runs/NAME photos"
    model, rest = positional(words, "the model", usage, example, PredictOptions)
    images, flags = several(rest, "a file or folder of images", usage, example)
    options = options_from(flags, PredictOptions, "mae-lite predict MODEL IMAGES...", {})
    from mae_lite.predicting import predict as predicting
    from mae_lite.predicting import writing

    out = None if options.out is None else Path(options.out)
    if out is not None:
        writing.check_place(out)
    classifier = predicting.opened(model, options.heads)
    source = predicting.images_of(images, options.split, _lines())
    settings = options.model_dump(include={"top", "batch_size", "workers"})
    found = predicting.answers(classifier, source, **settings)
    if out is None and not options.json_output:
        columns, bad = writing.Columns(source, classifier.classes), 0
        for item in found:  # a line at a time, for many images take long
            print(writing.as_line(item, columns), flush=True)
            bad += bool(item.error)
    else:
        kept = list(found)
        bad = sum(bool(item.error) for item in kept)
        if out is not None:
            writing.write(out, model, kept)
        values = writing.as_values(model, kept)
        print(json.dumps(values, indent=2) if options.json_output else plain(f"{len(kept):,} images: {out}"))
    if bad:
        print(f"{bad:,} of {len(source):,} images could not be read", file=sys.stderr)
    return DataError.exit_code if bad and options.on_bad == "fail" else 0


def _lines() -> Iterator[str]:
    """Yield the lines of standard input, which are read only when asked for; a path may be of any bytes."""
    yield from map(os.fsdecode, sys.stdin.buffer)


def convert(words: Sequence[str]) -> int:
    """Bring weights in from other libraries, or take them out: mae-lite convert IN OUT [--to timm]."""
    usage = "mae-lite convert IN OUT [--to ours|timm|huggingface] [--heads N] [--FIELD VALUE ...]"
    example = "mae-lite convert checkpoint.pth converted"
    source, rest = positional(words, "the checkpoint", usage, example, ConvertOptions)
    out, rest = positional(rest, "the folder to write", usage, example)
    options = options_from(rest, ConvertOptions, "mae-lite convert IN OUT", {})
    from mae_lite import converting

    lines = converting.convert(converting.Order(source=source, out=Path(out), **options.model_dump()))
    print(plain("\n".join(lines)))
    return 0


def export(words: Sequence[str]) -> int:
    """Write a finished model for use elsewhere, compared before it appears: mae-lite export RUN [--to onnx]."""
    usage = "mae-lite export RUN [--to timm huggingface torch-export onnx onnx-int8] [--out FOLDER] [--FIELD VALUE ...]"
    source, rest = positional(words, "the finished run", usage, "mae-lite export runs/NAME --to onnx", ExportOptions)
    options = options_from(flags_of(rest), ExportOptions, "mae-lite export RUN", {})
    from mae_lite.exporting import export as exporting

    record = exporting.exported(source, None if options.out is None else Path(options.out), options)
    print(json.dumps(record, indent=2) if options.json_output else plain(exporting.as_text(record)))
    return 0


def analyze(words: Sequence[str]) -> int:
    """Look into encoders, layer by layer, with figures: mae-lite analyze MODEL... --data DATA."""
    usage = "mae-lite analyze MODEL... --data DATA [--images 1000] [--out analysis] [--FIELD VALUE ...]"
    models, flags = several(words, "the model", usage, "mae-lite analyze runs/NAME --data photos", AnalyzeOptions)
    base = {"reading": config.Reading().model_dump()}
    options = options_from(flags, AnalyzeOptions, "mae-lite analyze MODEL...", base)
    from mae_lite.analysis import analyze as analysis

    settings = options.model_dump(exclude={"reading", "out", "json_output"})
    order = analysis.Order(tuple(models), out=Path(options.out), reading=options.reading, **settings)
    summary = analysis.analyze(order)
    print(json.dumps(summary, indent=2) if options.json_output else plain(analysis.as_text(summary)))
    return 0


def probe(words: Sequence[str]) -> int:
    """Measure what frozen features are worth, linear and nearest neighbours: mae-lite probe MODEL... --data DATA."""
    usage = "mae-lite probe MODEL... --data DATA [--labels-per-class N] [--blocks] [--out probe] [--FIELD VALUE ...]"
    models, flags = several(words, "the model", usage, "mae-lite probe runs/NAME --data labelled", ProbeOptions)
    base = {"reading": config.Reading().model_dump()}
    options = options_from(flags, ProbeOptions, "mae-lite probe MODEL...", base)
    from mae_lite.frozen import probe as probing
    from mae_lite.frozen import writing

    summary = probing.probed(models, options, Path(options.out))
    if summary is not None:  # the first of several processes
        print(json.dumps(summary, indent=2) if options.json_output else plain(writing.as_text(summary)))
    return 0


def embed(words: Sequence[str]) -> int:
    """Write the features of every image to a file: mae-lite embed MODEL --data DATA --out features.parquet."""
    usage = "mae-lite embed MODEL --data DATA --out features.parquet [--token class] [--blocks] [--FIELD VALUE ...]"
    example = "mae-lite embed runs/NAME --data photos --out photos.parquet"
    model, rest = positional(words, "the model", usage, example, EmbedOptions)
    base = {"reading": config.Reading().model_dump()}
    options = options_from(rest, EmbedOptions, "mae-lite embed MODEL", {"out": "features.parquet", **base})
    from mae_lite.frozen import embed as embedding

    said = embedding.embedded_to(model, options, Path(options.out))
    if said:
        print(plain(said))
    return 0


def duplicates(words: Sequence[str]) -> int:
    """Find images that are there twice, exactly or nearly, also between splits: mae-lite duplicates DATA."""
    usage = "mae-lite duplicates DATA [--model MODEL] [--against OTHER] [--out FOLDER] [--json] [--FIELD VALUE ...]"
    data, rest = positional(words, "the data set", usage, "mae-lite duplicates photos", DuplicatesOptions)
    base = {"reading": config.Reading().model_dump()}
    options = options_from(flags_of(rest), DuplicatesOptions, "mae-lite duplicates DATA", base)
    from mae_lite.copies import find, writing

    summary = writing.written(find.found(data, options), data, options, Path(options.out))
    print(json.dumps(summary, indent=2) if options.json_output else plain(writing.as_text(summary)))
    return 0


def layers(words: Sequence[str]) -> int:
    """Find which blocks carry what pre-training is worth, by fine-tuning: mae-lite layers RUN RECIPE --data DATA."""
    usage = "mae-lite layers RUN RECIPE --data DATA [--keep 0 3 6 9 12] [--seeds 0 1 2] [--FIELD VALUE ...]"
    example = "mae-lite layers runs/NAME finetune-improved --data DATA"
    run, rest = positional(words, "the pre-trained run", usage, example)
    name, rest = positional(rest, "the recipe", usage, example)
    recipe = recipes.get(name)
    request = options_from(
        flags_of(rest), LayersRequest, f"mae-lite layers {run} {name}", {**recipe.model_dump(), "init": run}
    )
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
    """Write one HTML page about runs and analyses: mae-lite report RUN... [--out report.html]."""
    runs, rest = run_folders(words, "report", ReportOptions)
    options = options_from(rest, ReportOptions, "mae-lite report RUN...", {})
    from mae_lite.report import compose, page

    found = compose.compose(runs, options.title)
    page.write(found, Path(options.out))
    print(plain("\n".join(found.headline)))
    print(plain(f"The page: {options.out}"))
    return 0


def watch(words: Sequence[str]) -> int:
    """Show runs in a browser of this machine while they go on: mae-lite watch RUN... [--port 8123]."""
    runs, rest = run_folders(words, "watch", WatchOptions)
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
    name, rest = positional(words, "the study", known, "mae-lite study digits", StudyOptions)
    subject, rest = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (None, rest)
    options = options_from(rest, StudyOptions, "mae-lite study NAME", {})
    from mae_lite.report.repeat import flags
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
        print(plain(studying.submit(order, options.slurm_options, ("study", *named, *again, "--only-report"))))
        return 0
    if options.dry_run or options.only_report:
        print(plain(studying.plan(order) if options.dry_run else "\n".join(studying.only_report(order))))
        return 0
    return studying.run(order)


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
        print(plain(transferring.plan(order)))
        return 0
    error: MaeLiteError | None = None
    if options.only_report:
        found = transferring.only_report(order)
    else:
        found, error = transferring.run(order)
    print(json.dumps(found, indent=2) if options.json_output else plain(transferring.as_text(order, found)))
    if error is not None:
        raise error
    return 0
