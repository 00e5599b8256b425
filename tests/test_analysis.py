"""Looking into models: numbers against a reference and slow formulas, every kind of model, files, bad input."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from mae_lite import cli, config, figures, recipes, training
from mae_lite.analysis import analyze as analysis
from mae_lite.analysis import attention, cka, gallery, importance, loading, pictures, sentences
from mae_lite.data.digits import Digits
from mae_lite.data.loader import evaluation_loader, to_device
from mae_lite.data.opening import open_source
from mae_lite.data.sources import subset
from mae_lite.data.transforms import EvalTransform
from mae_lite.errors import CheckpointError, ConfigError, DataError
from mae_lite.evaluation.load import load_method
from mae_lite.models import weights
from mae_lite.models.taps import oddity, tapped
from mae_lite.models.vit import build_encoder
from tests import toy

FIXTURES = Path(__file__).parent / "fixtures"
CHECKPOINT = str(FIXTURES / "mae_tiny_public_format.pth.tar")
ENCODER = config.Encoder(image_size=8, patch_size=2, channels=1, width=32, depth=4, num_heads=4)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return load_file(FIXTURES / "analysis.safetensors")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compared(one: list[Tensor], other: list[Tensor], batch: int) -> Tensor:
    """Return CKA of layers [n, D] of two models, in batches."""
    sums = cka.MinibatchCKA()
    for start in range(0, len(one[0]), batch):
        some = slice(start, start + batch)
        sums.add(cka.grams([layer[some] for layer in one]), cka.grams([layer[some] for layer in other]))
    return sums.matrix()


# CKA


def test_cka_agrees_with_the_reference(reference: dict[str, Tensor]) -> None:
    sums = cka.MinibatchCKA()
    for batch in range(3):
        one = [reference[f"in.batch{batch}.a.layer{layer}"] for layer in range(3)]
        other = [reference[f"in.batch{batch}.b.layer{layer}"] for layer in range(2)]
        sums.add(cka.grams(one), cka.grams(other))
    assert (sums.matrix() - reference["out.cka"]).abs().max() < 1e-5


def slow_hsic(one: Tensor, other: Tensor) -> float:
    """Return HSIC₁ of features [n, D] as Song et al. write it, sum by sum."""
    n = len(one)
    k, m = ((x.double() @ x.double().T).fill_diagonal_(0) for x in (one, other))
    trace = sum(float(k[i] @ m[:, i]) for i in range(n))
    crossed = float(torch.ones(n, dtype=torch.float64) @ k @ m @ torch.ones(n, dtype=torch.float64))
    return (trace + float(k.sum()) * float(m.sum()) / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)) / (n * (n - 3))


def test_one_batch_of_everything_is_the_formula() -> None:
    one, other = noise(20, 6) + 3, noise(20, 9, seed=1) - 2
    other[:, :6] += one
    expected = slow_hsic(one, other) / math.sqrt(slow_hsic(one, one) * slow_hsic(other, other))
    assert compared([one], [other], batch=20).item() == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_cka_does_not_see_rotation_scale_and_shift(scale: float, seed: int) -> None:
    one, other = noise(24, 5, seed=seed), noise(24, 7, seed=seed + 1)
    other[:, :5] += one
    rotation = torch.linalg.qr(noise(7, 7, seed=seed + 2))[0]
    plain, moved = (compared([one], [x], batch=8) for x in (other, scale * (other @ rotation + 1)))
    assert moved.item() == pytest.approx(plain.item(), abs=1e-4)
    assert compared([one], [one], batch=8).item() == pytest.approx(1, abs=1e-6)


def test_cka_does_not_depend_on_the_batch_size_but_for_noise() -> None:
    one, other = noise(2048, 6), noise(2048, 6, seed=1)
    other = other + one
    whole = compared([one], [other], batch=2048).item()
    assert 0.2 < whole < 0.8
    for batch in (16, 64):
        assert compared([one], [other], batch=batch).item() == pytest.approx(whole, abs=0.03)
    assert abs(compared([one], [noise(2048, 6, seed=2)], batch=16).item()) < 0.02


def test_ragged_batches_count_by_their_images_and_tiny_ones_do_not() -> None:
    one, other = noise(23, 6), noise(23, 6, seed=1)
    other = other + one
    crossed = (16 * slow_hsic(one[:16], other[:16]) + 7 * slow_hsic(one[16:], other[16:])) / 23
    own = [(16 * slow_hsic(x[:16], x[:16]) + 7 * slow_hsic(x[16:], x[16:])) / 23 for x in (one, other)]
    assert compared([one], [other], batch=16).item() == pytest.approx(crossed / math.sqrt(own[0] * own[1]), rel=1e-4)
    assert torch.equal(compared([one[:19]], [other[:19]], batch=16), compared([one[:16]], [other[:16]], batch=16))
    with pytest.raises(DataError, match="too few images"):
        compared([one[:3]], [other[:3]], batch=16)


def test_a_layer_that_is_the_same_for_all_images_has_no_cka() -> None:
    found = compared([torch.ones(16, 5), noise(16, 5)], [noise(16, 5)], batch=8)
    assert found.isnan().tolist() == [[True], [False]]


# Attention


def test_distance_and_entropy_agree_with_the_reference(reference: dict[str, Tensor]) -> None:
    distances = attention.patch_distances((14, 14), 16)
    sums = attention.HeadSums(distances, prefix=0)
    for image in reference["in.attention_logits"]:
        sums.add(0, image[None])
    far = torch.tensor(sums.distance_px()[0], dtype=torch.float64) / 16
    assert (far - reference["out.distance_in_patches"]).abs().max() < 1e-5
    assert (torch.tensor(sums.entropy_nats()[0]) - reference["out.entropy_nats"]).abs().max() < 1e-5


def test_tokens_before_the_patches_are_left_out() -> None:
    distances = attention.patch_distances((2, 3), 4.0)
    assert distances[0].tolist() == pytest.approx([0, 4, 8, 4, 4 * 2**0.5, 4 * 5**0.5])
    logits = noise(2, 3, 8, 8)
    whole, inner = attention.HeadSums(distances, prefix=2), attention.HeadSums(distances, prefix=0)
    whole.add(0, logits)
    inner.add(0, logits[:, :, 2:, 2:])
    assert whole.distance_px() == inner.distance_px()
    only = torch.full((1, 1, 6, 6), -1e4).diagonal_scatter(torch.zeros(1, 1, 6), dim1=2, dim2=3)
    far, entropy = attention.distance_and_entropy(only, distances)
    assert far.item() == 0 and entropy.item() == 0


@pytest.mark.parametrize("kind", ["ours", "registers and normed queries", "relative positions"])
def test_taps_show_what_the_model_computes(kind: str) -> None:
    if kind == "ours":
        model: Any = build_encoder(ENCODER, seed=0).eval()
    elif kind == "relative positions":
        model = build_encoder(ENCODER, seed=0, relative_positions=True).eval()
        for block in model.blocks:
            nn.init.normal_(block.attn.relative.relative_position_bias_table)
    else:
        settings: dict[str, Any] = {
            "img_size": 8,
            "patch_size": 2,
            "in_chans": 1,
            "embed_dim": 32,
            "depth": 4,
            "num_heads": 4,
        }
        settings |= {"reg_tokens": 3, "qk_norm": True, "num_classes": 0}
        model = timm.create_model("vit_tiny_patch16_224", **settings).eval()
    images, seen, expected = noise(2, 1, 8, 8), {}, []
    with torch.no_grad():
        found = tapped(model, images, lambda block, logits: seen.update({block: logits.softmax(dim=-1)}))
        assert torch.equal(found.features, model.forward_features(images))
        for block in model.blocks:
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_hook(lambda _, inputs, __: expected.append(inputs[0]))
        model.forward_features(images)
        for number, block in enumerate(model.blocks):
            torch.testing.assert_close(seen[number], expected[number], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(block(found.states[number]), found.states[number + 1], rtol=1e-4, atol=1e-5)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.blocks)


# Importance: upper blocks that were made random are found to be worth nothing


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    loader = evaluation_loader(
        Digits("train"), EvalTransform(toy.mae().augmentation, 8, 1), batch_size=2000, channels=1
    )
    (batch,) = loader
    return to_device(batch, torch.device("cpu"), (0.305,), (0.376,)).images, batch.labels


@pytest.fixture(scope="module")
def trained(digits: tuple[Tensor, Tensor]) -> Any:
    """Return an encoder of 4 blocks that knows digits, trained on the first thousand."""
    images, labels = digits
    encoder: Any = build_encoder(ENCODER, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(32, 10)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)
    for step in range(100):
        some = torch.randint(0, 1000, (128,), generator=torch.Generator().manual_seed(step))
        outputs = head(encoder.forward_features(images[some])[:, 1:].mean(dim=1))
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs, labels[some]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return encoder.eval()


def ablated(model: Any, images: Tensor, labels: Tensor, how: importance.How) -> importance.Importance:
    found = importance.Ablation(model, how, seed=0)
    with torch.inference_mode():
        for some in torch.split(images, 100):
            seen = tapped(model, some)
            found.add(seen.states, seen.features)
    return found.result(labels.numpy())


@pytest.mark.parametrize("how", ["skip", "reinitialise"])
def test_planted_random_blocks_are_found(how: importance.How, trained: Any, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][1000:], digits[1][1000:]
    before = ablated(trained, images, labels, how)
    assert before.whole > 0.8 and before.drops()[2] > 0.03
    planted: Any = build_encoder(ENCODER, seed=5).eval()
    state = planted.state_dict()
    upper = {name: value for name, value in state.items() if name.startswith(("blocks.2.", "blocks.3."))}
    planted.load_state_dict(trained.state_dict() | upper)
    found = ablated(planted, images, labels, how).drops()
    assert min(found[:2]) > 0.08 and max(found[2:]) < 0.03
    said = sentences.importance("m", importance.Importance(0.5, [0.5 - drop for drop in found]), "skipped")
    assert "with block 1, and least" in said


def test_a_skipped_block_is_one_that_does_nothing(trained: Any, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][1000:1200], digits[1][1000:1200]
    found = ablated(trained, images, labels, "skip")
    without = nn.ModuleList(block for number, block in enumerate(trained.blocks) if number != 1)
    features = trained.patch_embed(images)
    tokens = trained._pos_embed(features)
    for block in without:
        tokens = block(tokens)
    pooled = trained.norm(tokens)[:, 1:].mean(dim=1).detach().numpy()
    assert importance.folded_knn(pooled, labels.numpy()) == found.without[1] != found.whole


def test_every_image_asks_the_others_once() -> None:
    labels = np.repeat(np.arange(4), 10)
    apart = np.eye(4, dtype=np.float32)[labels]
    assert importance.folded_knn(apart, labels) == 1
    assert importance.folded_knn(apart, np.arange(40) % 4) < 0.6


# Pictures


def test_colours_are_components_whatever_their_sign() -> None:
    tokens = noise(2, 9, 5) * torch.tensor([9.0, 3.0, 1.0, 0.0, 0.0])
    colours, share = pictures.tokens_as_colours(tokens)
    assert colours.shape == (2, 9, 3) and colours.min() == 0 and colours.max() == 1 and share == pytest.approx(1)
    assert torch.allclose(colours, pictures.tokens_as_colours(tokens + 7)[0], atol=1e-5)
    first = torch.corrcoef(torch.stack([colours[..., 0].flatten(), tokens[..., 0].flatten()]))[0, 1]
    assert abs(first) > 0.95
    single, share = pictures.tokens_as_colours(torch.ones(1, 1, 5))
    assert single.shape == (1, 1, 3) and share == 0


def test_maps_lie_where_their_patches_do() -> None:
    images, shares = np.zeros((1, 1, 64, 64), np.uint8), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    shown = np.asarray(Image.open(io.BytesIO(pictures.attention_png(images, [shares], (2, 2)))))
    lit = shown[66:130].sum(axis=-1) > 600
    assert lit[:32, 32:64].all() and lit.sum() == 32 * 32 + (shown[66:130].min(axis=-1) == 255).sum()


# Reconstructions


def painting_run(folder: Path, **changes: Any) -> str:
    encoder = {"image_size": 8, "patch_size": 2, "channels": 1, "width": 16, "depth": 2, "num_heads": 2}
    training.run(toy.mae(encoder=encoder, **changes), toy.runtime(folder, stop_after_steps=2))
    return str(folder)


def rows_of(picture: Path, count: int) -> Any:
    """Return the pictures of a gallery of digits, [rows, count, 8, 8], without frame, labels and enlargement."""
    shown = np.asarray(Image.open(picture))[:, 96:]
    cells = shown.reshape(len(shown) // 66, 66, count, 66).transpose(0, 2, 1, 3)[:, :, :64, :64]
    return cells[:, :, ::8, ::8]


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_is_that_of_training_with_the_same_masks(normalize: bool, tmp_path: Path) -> None:
    """At the ratio of training the loss is the method's own; the masks are those of its draws."""
    run = painting_run(tmp_path / "run", method={"normalize_target": normalize, "mask_ratio": 0.75})
    analyzed(tmp_path / "out", run, images=30, batch_size=8, mask_ratios=(0.9, 0.75, 0.5, 0.97))
    told = json.loads((tmp_path / "out" / "reconstructions-run.json").read_text())
    assert told["trained_with_mask_ratio"] == 0.75 and told["left_out"] == [0.97]
    assert [row["mask_ratio"] for row in told["ratios"]] == [0.5, 0.75, 0.9]
    method = load_method(Path(run)).model
    order = analysis.Order((run,), "digits", tmp_path, images=30)
    source = subset(open_source("digits", "test"), analysis._chosen(open_source("digits", "test"), order))
    augmentation = toy.mae().augmentation
    (batch,) = evaluation_loader(source, EvalTransform(augmentation, 8, 1), batch_size=30, channels=1)
    images = to_device(batch, torch.device("cpu"), augmentation.mean, augmentation.std).images
    with torch.no_grad():
        drawn = method.draw(0, 0, range(30))
        expected = method(images, batch.labels, drawn).loss
        hidden = drawn["noise"].argsort(dim=1)[:, 4:]
        cut = images.unfold(2, 2, 2).unfold(3, 2, 2).reshape(30, 16, 4)  # of one channel: row by row
        values = torch.gather(cut, 1, hidden[..., None].expand(-1, -1, 4))
        flat = values.var(dim=-1, correction=0)
        flat = (flat / (values.var(dim=-1) + 1e-6) if normalize else flat).mean()
    assert told["ratios"][1]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert told["ratios"][1]["flat_loss"] == pytest.approx(flat.item(), rel=1e-4)
    assert "75 % hidden" in told["sentence"] and "0.97" not in told["sentence"]


def test_the_gallery_shows_image_mask_and_painting(tmp_path: Path) -> None:
    run = painting_run(tmp_path / "run")
    summary = analyzed(tmp_path / "out", run, mask_ratios=(0.5, 0.75))
    rows = rows_of(tmp_path / "out" / "reconstructions-run.png", 3)
    assert rows.shape == (5, 3, 8, 8)
    image, *pairs = rows
    grey = [(pairs[place] == 128).reshape(3, 4, 2, 4, 2).all(axis=(2, 4)) for place in (0, 2)]
    assert [mask.sum(axis=(1, 2)).tolist() for mask in grey] == [[8] * 3, [12] * 3]
    assert (grey[0] <= grey[1]).all()  # what is hidden at a lower ratio is so at a higher one
    for mask, seen, painted in ((grey[0], *pairs[:2]), (grey[1], *pairs[2:])):
        visible = ~mask.repeat(2, axis=1).repeat(2, axis=2)
        assert (seen[visible] == image[visible]).all() and (painted[visible] == image[visible]).all()
        assert (painted[~visible] != image[~visible]).any()
    assert summary["not_shown"] == []
    blind = analyzed(tmp_path / "blind", run, pictures=0)
    assert any("hidden patches" in line for line in blind["not_shown"]) and not blind["figures"].get(
        "reconstructions-run.png"
    )
    off = analyzed(tmp_path / "off", run, mask_ratios=())
    assert off["not_shown"] == [] and not (tmp_path / "off" / "reconstructions-run.json").exists()


def test_models_that_paint_no_pixels_are_left_out_with_a_word(tmp_path: Path) -> None:
    encoder = {"patch_size": 4}
    for name, recipe in (("hog", toy.mae_hog(encoder=encoder)), ("moco", toy.mocov3())):
        training.run(recipe, toy.runtime(tmp_path / name, stop_after_steps=1))
        said = analyzed(tmp_path / "out", str(tmp_path / name))["not_shown"]
        assert said == [
            f"{name}: no reconstructions, since the method {recipe.method.kind} has no decoder that paints pixels from "
            "the visible patches."
        ]
    decoupled = toy.distilled(encoder={**ENCODER.model_dump(), "width": 16}, method={"decoupled_at": 2})
    teacher = toy.teacher_of(decoupled, tmp_path / "teaching")
    training.run(decoupled, toy.runtime(tmp_path / "d2", stop_after_steps=1, **teacher))
    assert "reconstructions-d2.png" in analyzed(tmp_path / "out", str(tmp_path / "d2"))["figures"]


def test_mask_ratios_that_cannot_be_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", "run", "--data", "digits", "--out", str(tmp_path / "out"), "--mask-ratios"]
    for value, said in (("1.5", "less than 1"), ("0", "greater than 0"), ("half", "valid number")):
        assert cli.main([*words, "0.5", value]) == ConfigError.exit_code
        assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


# The command


def of_run(folder: Path) -> str:
    """Return a run at patch 4."""
    shape = {"image_size": 8, "patch_size": 4, "channels": 1, "width": 16, "depth": 3, "num_heads": 2}
    training.run(toy.mae(encoder=shape), toy.runtime(folder, stop_after_steps=2))
    return str(folder)


def analyzed(out: Path, *models: str, **changes: Any) -> dict[str, Any]:
    order: dict[str, Any] = {"data": "digits", "images": 20, "pictures": 3, "batch_size": 10, "seed": 0}
    return analysis.analyze(analysis.Order(models, out=out, **{**order, **changes}))


def test_models_of_every_origin_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A random timm model, a checkpoint in the public format and a run at patch 4: other sides, channels and depths."""
    models = ["timm:vit_tiny_patch16_224", CHECKPOINT, of_run(tmp_path / "run")]
    words = ["--data", "digits", "--images", "20", "--pictures", "2", "--heads", "12", "--random", "--batch-size", "10"]
    assert cli.main(["analyze", *models, *words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    out = tmp_path / "out"
    summary = json.loads((out / "analysis.json").read_text())
    names = ["vit_tiny_patch16_224", "mae_tiny_public_format.pth.tar", "run"]
    assert list(summary["models"]) == names and summary["models"]["run"]["patch_px"] == 4
    assert summary["models"]["vit_tiny_patch16_224"]["heads"] == 3
    cross = [f"cka-{names[0]}+{name}.svg" for name in names[1:]]
    assert set(cross) < set(summary["figures"]) and len(summary["figures"]) == 3 + 2 + 3 + 6 + 1
    assert all(any(line.startswith(f"{name}: no") for line in summary["not_shown"]) for name in names)
    assert all(line in said for line in summary["not_shown"])
    for name, told in summary["figures"].items():
        assert told and all(sentence in said and sentence.endswith(".") for sentence in told), name
        if name.endswith(".svg"):
            assert (out / name).read_text().startswith("<svg")
        else:
            left = 96 if name.startswith("reconstructions") else 0
            assert Image.open(out / name).size[0] == left + 2 * (224 + 2 if "run" not in name else 64 + 2)
    matrix = json.loads((out / f"cka-{names[0]}+run.json").read_text())["cka"]
    assert len(matrix) == 12 and len(matrix[0]) == 3
    heads = json.loads((out / "attention.json").read_text())["models"]["run"]
    assert np.shape(heads["distance_px"]) == (3, 2) and 0 < np.min(heads["distance_px"]) < 4 * 2**0.5
    lost = json.loads((out / "importance.json").read_text())["models"]
    assert {len(lost[name]["drop"]) for name in names} == {12, 3, summary["models"][names[1]]["blocks"]}


def test_batches_change_no_number_but_cka(tmp_path: Path) -> None:
    run = of_run(tmp_path / "run")
    for batch in (7, 20):
        analyzed(tmp_path / str(batch), run, batch_size=batch)
    for name in ("attention.json", "importance.json", "pictures-run.json", "reconstructions-run.json"):
        one, other = (json.loads((tmp_path / batch / name).read_text()) for batch in ("7", "20"))
        flat = [re.findall(r"-?\d+\.\d+(?:e-\d+)?", json.dumps(found)) for found in (one, other)]
        assert [float(x) for x in flat[0]] == pytest.approx([float(x) for x in flat[1]], rel=1e-4, abs=1e-6), name


def test_a_converted_folder_is_what_its_checkpoint_is(tmp_path: Path) -> None:
    for to in ("ours", "timm"):
        assert cli.main(["convert", CHECKPOINT, str(tmp_path / to), "--to", to, "--heads", "12"]) == 0
    models = [loading.load(CHECKPOINT, heads=12), *(loading.load(str(tmp_path / to)) for to in ("ours", "timm"))]
    images = noise(1, 3, models[0].side_px, models[0].side_px)
    with torch.no_grad():
        features = [model.model.forward_features(images) for model in models]
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])


def test_a_classifier_with_relative_positions_can_be_looked_into(tmp_path: Path) -> None:
    recipe = toy.classifier(method={"relative_positions": True})
    training.run(recipe, toy.runtime(tmp_path / "run", stop_after_steps=2))
    found = loading.load(str(tmp_path / "run"))
    assert isinstance(found.model.norm, nn.Identity) and found.method == "supervised" and found.channels == 1
    analyzed(tmp_path / "out", str(tmp_path / "run"), importance="none")
    assert not (tmp_path / "out" / "importance.json").exists()


def unlabelled(folder: Path) -> str:
    folder.mkdir()
    for number in range(6):
        Image.fromarray(np.full((8, 8), 40 * number, np.uint8)).save(folder / f"{number}.png")
    return str(folder)


def test_bad_input_is_explained(tmp_path: Path) -> None:
    run = of_run(tmp_path / "run")
    training.run(
        recipes.derive(toy.simmim_swin(), global_batch_size=2), toy.runtime(tmp_path / "swin", stop_after_steps=1)
    )
    (tmp_path / "timm").mkdir()
    described = {"architecture": "swin_tiny_patch4_window7_224", "num_classes": 0, "pretrained_cfg": {}}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(described))
    photos = unlabelled(tmp_path / "photos")
    cases: list[tuple[type[Exception], str, tuple[str, ...], dict[str, Any]]] = [
        (CheckpointError, "a Swin transformer, whose tokens are merged", (run, str(tmp_path / "swin")), {}),
        (CheckpointError, "SwinTransformer, whose blocks", ("timm:swin_tiny_patch4_window7_224",), {"random": True}),
        (CheckpointError, "SwinTransformer, whose blocks", (str(tmp_path / "timm"),), {}),
        (CheckpointError, "Beit, whose blocks", ("timm:beit_base_patch16_224",), {"random": True}),
        (CheckpointError, "does not say its number of attention heads", (CHECKPOINT,), {}),
        (ConfigError, "nearest: 'vit_tiny_patch16_224'", ("timm:vit_tiny_patch16_22",), {"random": True}),
        (ConfigError, "drop --random", (run,), {"random": True}),
        (DataError, "the images have no labels.*\nFix: .*--importance none", (run,), {"data": photos}),
        (CheckpointError, "does not exist", ("nowhere",), {}),
    ]
    for error, words, models, changes in cases:
        with pytest.raises(error, match=words):
            analyzed(tmp_path / "out", *models, **changes)
    assert not (tmp_path / "out").exists()
    summary = analyzed(tmp_path / "out", run, data=photos, importance="none")
    assert summary["images"] == 6


def test_a_bad_image_is_left_out_for_every_model(tmp_path: Path) -> None:
    run, photos = of_run(tmp_path / "run"), unlabelled(tmp_path / "photos")
    (tmp_path / "photos" / "3.png").write_bytes(b"no image")
    models, asked = (run, CHECKPOINT), {"data": photos, "heads": 12, "importance": "none", "batch_size": 5}
    with pytest.raises(DataError, match=r"3\.png(.|\n)*--on-bad skip"):
        analyzed(tmp_path / "out", *models, **asked)
    assert analyzed(tmp_path / "out", *models, **asked, on_bad="skip")["images"] == 5


def test_without_a_network_published_weights_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", refused)
    with pytest.raises(CheckpointError, match=r"could not be fetched(.|\n)*--random"):
        loading.load("timm:vit_tiny_patch16_224")


def test_a_seed_decides_random_weights() -> None:
    one, same, other = (loading.load("timm:vit_tiny_patch16_224", random=True, seed=seed) for seed in (0, 0, 1))
    digests = [weights.to_bytes(found.model.state_dict()) for found in (one, same, other)]
    assert digests[0] == digests[1] != digests[2] and oddity(one.model) is None


# Words


def test_sentences_say_what_the_numbers_do() -> None:
    assert sentences.within("m", [[1.0, 0.9, 0.2], [0.9, 1.0, 0.5], [0.2, 0.5, 1.0]]) == (
        "m: CKA of the first block and the last 0.20; neighbours 0.70 on average, and most changes from block 2 to "
        "block 3 (0.50)."
    )
    assert sentences.between("a", "b", [[0.1, 0.8], [0.6, None]]) == (
        "a and b: CKA of the last blocks not known, 0.50 on average over all pairs; most alike are block 1 and block 2 "
        "(0.80); the last block of a is most like block 1 (0.60)."
    )
    assert sentences.distance("m", [[10.0, 20.0], [30.0, 5.0]], 40) == (
        "m: heads look 15 px far in the first block and 17.5 px in the last (everywhere alike: 40 px); shortest is "
        "head 2 of block 2 (5 px)."
    )
    assert sentences.importance("m", importance.Importance(0.5, [0.25, 0.5]), "skipped") == (
        "m: nearest neighbours are right for 50.0 %; when a block is skipped they lose most, 25.0 points, with block "
        "1, and least, 0.0 points, with block 2."
    )
    assert sentences.painting("m", [gallery.Painted(0.5, 0.3, 0.9), gallery.Painted(0.75, 0.4, 1.0)], 0.6) == (
        "m: the mean squared error of hidden patches is 0.300 with 50 % hidden and 0.400 with 75 % hidden, beside "
        "0.950 for painting each flat in its right mean; it was trained with 60 % hidden."
    )
    assert sentences.within("m", [[None]]) == "m: CKA of the first block and the last not known."


def test_a_heat_map_leaves_cells_without_a_number_empty() -> None:
    full, empty = (figures.heatmap([[0.1, 0.9], [value, 0.2]], "b", "a", "CKA") for value in (0.5, None))
    cells = [re.findall(r'<g id="QuadMesh_1">.*?</g>', text, flags=re.DOTALL)[0] for text in (full, empty)]
    assert [len(re.findall("fill: #", text)) for text in cells] == [4, 3]
    assert all(f">{word}<" in full for word in ("a", "b", "CKA"))


def test_models_of_one_name_keep_apart() -> None:
    found = loading.labels_of(["runs/a/encoder", "timm:vit_x.y", "other/a", "runs/b c/", "encoder"])
    assert found == ["a", "vit_x.y", "a-2", "b_c", "encoder"]
