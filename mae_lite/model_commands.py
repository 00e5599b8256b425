"""The commands that look at finished models. Heavy imports happen inside them."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mae_lite import config
from mae_lite.cli_options import (
    AnalyzeOptions,
    ConvertOptions,
    DuplicatesOptions,
    EmbedOptions,
    EvaluateOptions,
    PredictOptions,
    ProbeOptions,
)
from mae_lite.cli_words import options_from, positional, several
from mae_lite.errors import DataError, in_line
from mae_lite.export_options import CardOptions, ExportOptions, PushOptions
from mae_lite.terminal import answer, say


def evaluate(words: Sequence[str]) -> int:
    """Measure the exact accuracy of a classifier: mae-lite evaluate RUN [--data DATA]."""
    usage = "mae-lite evaluate RUN [--data DATA] [--split test] [--json]"
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
    answer(result, classifier.as_text(result), options.json_output)
    return 0


def predict(words: Sequence[str]) -> int:
    """Name the most probable classes of images: mae-lite predict MODEL IMAGES... [--top 3] [--out FILE.csv]."""
    usage = "mae-lite predict MODEL IMAGES... [--top 3] [--split test] [--out FILE.csv] [--json] [--FIELD VALUE ...]"
    example = "mae-lite predict runs/NAME photos"
    model, rest = positional(words, "the model", usage, example, PredictOptions)
    images, flags = several(rest, "a file or folder of images", usage, f"mae-lite predict {shlex.quote(model)} photos")
    options = options_from(flags, PredictOptions, "mae-lite predict MODEL IMAGES...", {})
    from mae_lite.predicting import predict as predicting
    from mae_lite.predicting import writing

    out = None if options.out is None else Path(options.out)
    if out is not None:
        writing.check_place(out)
    classifier = predicting.opened(model, options.heads)
    source = predicting.images_of(images, options.split, itertools.islice(_lines(), options.limit))
    source = predicting.first(source, options.limit)
    settings = options.model_dump(include={"top", "batch_size", "workers"})
    tally = writing.Tally(classifier.classes)
    found = tally.counted(predicting.answers(classifier, source, **settings))
    if out is None and not options.json_output:
        columns = writing.Columns(source, classifier.classes)
        for item in found:  # a line at a time, for many images take long
            say(writing.as_line(item, columns))
    else:
        kept = list(found)
        if out is not None:
            writing.write(out, model, kept)
        values = writing.as_values(model, kept)
        answer(values, f"{len(kept):,} images: {in_line(out)}", options.json_output)
    for line in tally.lines(len(source)):
        say(line, aside=True)
    return DataError.exit_code if tally.bad and options.on_bad == "fail" else 0


def _lines() -> Iterator[str]:
    """Yield the lines of standard input with something in them, read when asked for; a path may be of any bytes."""
    yield from (os.fsdecode(line) for line in sys.stdin.buffer if line.strip())


def convert(words: Sequence[str]) -> int:
    """Bring weights in from other libraries, or take them out: mae-lite convert IN OUT [--to timm]."""
    usage = "mae-lite convert IN OUT [--to ours|timm|huggingface] [--heads N] [--FIELD VALUE ...]"
    example = "mae-lite convert checkpoint.pth converted"
    source, rest = positional(words, "the checkpoint", usage, example, ConvertOptions)
    out, rest = positional(rest, "the folder to write", usage, example)
    options = options_from(rest, ConvertOptions, "mae-lite convert IN OUT", {})
    from mae_lite import converting

    lines = converting.convert(converting.Order(source=source, out=Path(out), **options.model_dump()))
    say("\n".join(lines))
    return 0


def export(words: Sequence[str]) -> int:
    """Write a finished model for use elsewhere, compared before it appears: mae-lite export RUN [--to onnx]."""
    usage = "mae-lite export RUN [--to timm huggingface torch-export onnx onnx-int8] [--out FOLDER] [--FIELD VALUE ...]"
    source, rest = positional(words, "the finished run", usage, "mae-lite export runs/NAME --to onnx", ExportOptions)
    options = options_from(rest, ExportOptions, "mae-lite export RUN", {})
    from mae_lite.exporting import export as exporting
    from mae_lite.report import card as writing

    out = None if options.out is None else Path(options.out)
    beside = {"beside": writing.beside(options)} if options.card else {}
    record = exporting.exported(source, out, options, **beside)
    page = f"\nthe card: {in_line(Path(record['out']) / 'card.html')}" if options.card else ""
    answer(record, exporting.as_text(record) + page, options.json_output)
    return 0


def card(words: Sequence[str]) -> int:
    """Say what a model is worth on this machine, as a page and a README: mae-lite card RUN|EXPORT."""
    usage = "mae-lite card RUN|EXPORT [--images DATA] [--split test] [--licence apache-2.0] [--FIELD VALUE ...]"
    source, rest = positional(words, "the run or export", usage, "mae-lite card runs/NAME", CardOptions)
    options = options_from(rest, CardOptions, "mae-lite card RUN|EXPORT", {})
    from mae_lite.cards.words import headline, short
    from mae_lite.report import card as writing

    record = writing.written(source, None if options.out is None else Path(options.out), options)
    page = in_line(Path(record["out"]) / "card.html")
    said = [*headline(record, short(record["measured_on"]["data"])), f"The page: {page}"]
    answer(record, "\n".join(said), options.json_output)
    return 0


def push(words: Sequence[str]) -> int:
    """Bring a finished model to the Hugging Face Hub: mae-lite push RUN|EXPORT OWNER/NAME [--private] [--dry-run]."""
    usage = "mae-lite push RUN|EXPORT OWNER/NAME [--private] [--dry-run] [--licence apache-2.0] [--json]"
    example = "mae-lite push runs/NAME me/my-model"
    source, rest = positional(words, "the finished run or export", usage, example, PushOptions)
    repo, rest = positional(rest, "the repository", usage, example, PushOptions)
    options = options_from(rest, PushOptions, "mae-lite push RUN|EXPORT OWNER/NAME", {})
    from mae_lite import pushing

    pushing.check_name(repo)
    made = pushing.contents(source, repo, options.licence)
    lines = [f"{name}  {len(data) / 1e6:,.3f} MB" for name, data in made.items()]
    changed = None if options.dry_run else pushing.push(made, repo, options.private)
    what = "would be pushed to" if changed is None else "pushed to" if changed else "already up to date:"
    rows = [{"name": name, "bytes": len(data)} for name, data in made.items()]
    answer(
        {"repository": repo, "files": rows, "changed": changed},
        "\n".join([*lines, f"{what} {repo}"]),
        options.json_output,
    )
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
    answer(summary, analysis.as_text(summary), options.json_output)
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
        answer(summary, writing.as_text(summary), options.json_output)
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
        say(said)
    return 0


def duplicates(words: Sequence[str]) -> int:
    """Find images that are there twice, exactly or nearly, also between splits: mae-lite duplicates DATA."""
    usage = "mae-lite duplicates DATA [--model MODEL] [--against OTHER] [--out FOLDER] [--json] [--FIELD VALUE ...]"
    data, rest = positional(words, "the data set", usage, "mae-lite duplicates photos", DuplicatesOptions)
    base = {"reading": config.Reading().model_dump()}
    options = options_from(rest, DuplicatesOptions, "mae-lite duplicates DATA", base)
    from mae_lite.copies import find, writing

    summary = writing.written(find.found(data, options), data, options, Path(options.out))
    answer(summary, writing.as_text(summary), options.json_output)
    return 0
