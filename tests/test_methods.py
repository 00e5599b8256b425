"""Methods and models against slow formulas, and their initial values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from mae_lite import recipes
from mae_lite.config import Encoder, Recipe, Supervised
from mae_lite.errors import ConfigError
from mae_lite.methods import build
from mae_lite.methods.mae import MaskedAutoencoder, patchify, unpatchify
from mae_lite.methods.supervised import SupervisedClassifier
from mae_lite.models.vit import build_classifier, build_encoder, resized_positions, sincos_table
from tests import toy

Floats = npt.NDArray[np.float64]


def mae(**changes: Any) -> MaskedAutoencoder:
    """Return a small MAE of 16 patches, 6 of them visible."""
    settings: dict[str, Any] = {
        "encoder": {"image_size": 16, "channels": 3, "depth": 2},
        "augmentation": {"mean": (0.5,) * 3, "std": (0.5,) * 3},
        "method": {"mask_ratio": 0.6},
    }
    method = build(recipes.derive(toy.mae(**settings), **changes), 0)
    assert isinstance(method, MaskedAutoencoder)
    return method


def classifier(**changes: Any) -> SupervisedClassifier:
    method = build(toy.classifier(**changes), 10)
    assert isinstance(method, SupervisedClassifier)
    return method


def pictures(count: int, channels: int = 3, side: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def assert_uniform(weight: Tensor, bound: float) -> None:
    """Check that values fill [-bound, bound] evenly."""
    values = weight.detach().flatten()
    assert values.abs().max() <= bound
    assert values.abs().max() > bound * (1 - 20 / len(values))
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=4 / len(values) ** 0.5)
    assert abs(values.mean().item()) < 4 * bound / 3**0.5 / len(values) ** 0.5


def assert_normal(weight: Tensor, std: float) -> None:
    values = weight.detach().flatten()
    assert values.std().item() == pytest.approx(std, rel=4 / (2 * len(values)) ** 0.5)
    assert abs(values.mean().item()) < 4 * std / len(values) ** 0.5
    assert values.abs().max() > 2 * std  # a uniform distribution of this deviation ends at 1.73


@pytest.fixture(scope="module")
def fresh_mae() -> MaskedAutoencoder:
    method = build(recipes.derive(recipes.get("mae-tiny"), encoder={"depth": 2}), 0)
    assert isinstance(method, MaskedAutoencoder)
    return method


def test_mae_linear_layers_are_xavier_uniform(fresh_mae: MaskedAutoencoder) -> None:
    linear = {name: module for name, module in fresh_mae.named_modules() if isinstance(module, nn.Linear)}
    assert len(linear) == 4 * 3 + 2  # four in each of 3 blocks, and the decoder's first and last
    for module in linear.values():
        outputs, inputs = module.weight.shape
        assert_uniform(module.weight, (6 / (inputs + outputs)) ** 0.5)
        assert not module.bias.any()
    qkv = fresh_mae.encoder.blocks[0].attn.qkv.weight
    assert qkv.shape == (576, 192)
    assert qkv.abs().max() <= (6 / (576 + 192)) ** 0.5  # three matrices would reach (6 / 384)^0.5


def test_mae_patch_projection(fresh_mae: MaskedAutoencoder) -> None:
    projection = fresh_mae.encoder.patch_embed.proj
    assert_uniform(projection.weight, (6 / (3 * 16 * 16 + 192)) ** 0.5)
    assert_uniform(projection.bias, (3 * 16 * 16) ** -0.5)


def test_mae_tokens_and_positions(fresh_mae: MaskedAutoencoder) -> None:
    assert_normal(fresh_mae.encoder.cls_token, 0.02)
    assert_normal(fresh_mae.decoder.mask_token, 0.02)
    for module, width in ((fresh_mae.encoder, 192), (fresh_mae.decoder, 96)):
        assert torch.equal(module.pos_embed, sincos_table(width, 14))
        assert not module.pos_embed.requires_grad
    trainable = {name for name, parameter in fresh_mae.named_parameters() if not parameter.requires_grad}
    assert trainable == {"encoder.pos_embed", "decoder.pos_embed"}


def test_norms_start_as_the_identity(fresh_mae: MaskedAutoencoder) -> None:
    norms = [module for module in fresh_mae.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 2 * 3 + 2
    for norm in norms:
        assert bool((norm.weight == 1).all())
        assert not norm.bias.any()


def test_sincos_positions_by_hand() -> None:
    table = sincos_table(8, 3)[0]
    for row in range(3):
        for column in range(3):
            x, y = float(column), float(row)
            expected = [
                *(np.sin(x), np.sin(x / 100), np.cos(x), np.cos(x / 100)),
                *(np.sin(y), np.sin(y / 100), np.cos(y), np.cos(y / 100)),
            ]
            assert table[1 + 3 * row + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_scratch_is_truncated_normal_with_learned_positions() -> None:
    method: Any = build(recipes.derive(recipes.get("scratch"), encoder={"depth": 2}), 100)
    for name, module in method.named_modules():
        if isinstance(module, nn.Linear):
            assert_normal(module.weight, 0.02)
            assert not module.bias.any(), name
    encoder = method.encoder
    assert_normal(encoder.cls_token, 0.02)
    assert_normal(encoder.pos_embed, 0.02)
    assert encoder.pos_embed.requires_grad
    assert_normal(encoder.patch_embed.proj.weight, 0.02)
    assert not encoder.patch_embed.proj.bias.any()
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_finetuning_trains_sincos_positions_and_starts_a_new_norm_and_head() -> None:
    recipe = recipes.derive(recipes.get("finetune-improved"), encoder={"depth": 1})
    method: Any = build(recipe, 100)
    assert torch.equal(method.encoder.pos_embed, sincos_table(192, 14))
    assert method.encoder.pos_embed.requires_grad
    assert isinstance(method.encoder.norm, nn.Identity)
    assert isinstance(method.encoder.fc_norm, nn.LayerNorm)
    assert_normal(method.encoder.head.weight, 0.02)


@pytest.mark.parametrize(
    "recipe",
    [
        toy.mae(),
        toy.mocov3(),
        toy.maskfeat(),
        toy.features(),
        toy.simmim_swin(),
        toy.swin_classifier(),
        toy.classifier(),
    ],
    ids=lambda recipe: recipe.name,
)
def test_the_seed_decides_the_model_and_nothing_else_does(recipe: Recipe) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build(recipe, 10).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = build(recipe, 10).state_dict()
    other = build(recipes.derive(recipe, seed=1), 10).state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        constant = bool((value == value.flatten()[0]).all()) or name.endswith("pos_embed")
        if not constant:
            assert not torch.equal(value, other[name]), name


def test_unknown_architecture() -> None:
    with pytest.raises(ConfigError, match=r"nearest: 'vit_tiny_patch16_224'"):
        build_encoder(Encoder(name="vit_tinny_patch16_224"), seed=0)
    with pytest.raises(ConfigError, match=r"encoder\.name"):
        build_encoder(Encoder(name="resnet50"), seed=0)


def shown(method: MaskedAutoencoder, images: Tensor, draws: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the decoder is given: latent, order, hidden patch numbers."""
    seen: list[Any] = []
    handle = method.decoder.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    method(images, torch.zeros(len(images)), draws)
    handle.remove()
    latent, order, hidden = seen
    return latent, order, hidden


def test_each_image_hides_exactly_its_share() -> None:
    method = mae()
    draws = method.draw(0, 3, range(8))
    latent, order, hidden = shown(method, pictures(8), draws)
    assert (method.patches, method.kept) == (16, 6)
    assert latent.shape == (8, 1 + 6, 16)
    assert hidden.shape == (8, 10)
    for image in range(8):
        by_noise = sorted(range(16), key=lambda patch: float(draws["noise"][image, patch]))
        assert order[image].tolist() == by_noise  # visible ones in the order of noise, not sorted by place
        assert hidden[image].tolist() == by_noise[6:]
    assert len({tuple(sorted(row)) for row in hidden.tolist()}) > 4
    other_step, other_seed = method.draw(0, 4, range(8)), method.draw(1, 3, range(8))
    assert not torch.equal(shown(method, pictures(8), other_step)[2], hidden)
    assert not torch.equal(shown(method, pictures(8), other_seed)[2], hidden)


def test_every_patch_is_hidden_equally_often() -> None:
    method = mae()
    noise = torch.cat([method.draw(0, step, range(500))["noise"] for step in range(8)])
    hidden = torch.argsort(noise, dim=1)[:, method.kept :]
    share = torch.bincount(hidden.flatten(), minlength=16) / len(noise)
    assert (share - 10 / 16).abs().max() < 4 * (10 / 16 * 6 / 16 / len(noise)) ** 0.5


def slow_patches(images: Floats, size: int) -> Floats:
    """Cut patches pixel by pixel: [B, N, row, column, channel] flattened."""
    batch, channels, side, _ = images.shape
    grid = side // size
    patches = np.empty((batch, grid * grid, size * size * channels))
    for b in range(batch):
        for n in range(grid * grid):
            top, left = n // grid * size, n % grid * size
            values = [
                images[b, c, top + y, left + x] for y in range(size) for x in range(size) for c in range(channels)
            ]
            patches[b, n] = values
    return patches


def slow_loss(prediction: Floats, patches: Floats, mask: Floats, normalize: bool) -> float:
    """Average the squared error over the patches whose mask is 1."""
    total = 0.0
    for b, n in np.ndindex(*mask.shape):
        target = patches[b, n].tolist()
        if normalize:
            mean = sum(target) / len(target)
            variance = sum((value - mean) ** 2 for value in target) / (len(target) - 1)
            target = [(value - mean) / (variance + 1e-6) ** 0.5 for value in target]
        errors = [(ours - value) ** 2 for ours, value in zip(prediction[b, n].tolist(), target, strict=True)]
        total += float(mask[b, n]) * sum(errors) / len(errors)
    return total / float(mask.sum())


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("channels", "side"), [(3, 16), (1, 24)])
def test_mae_loss_is_the_slow_formula(normalize: bool, channels: int, side: int) -> None:
    method = mae(
        encoder={"image_size": side, "channels": channels},
        augmentation={"mean": (0.5,) * channels, "std": (0.5,) * channels},
        method={"normalize_target": normalize},
    )
    images, draws = pictures(3, channels, side), method.draw(0, 0, range(3))
    order = torch.argsort(draws["noise"], dim=1)
    visible = order[:, : method.kept]
    with torch.no_grad():
        loss = method(images, torch.zeros(3), draws).loss
        prediction = method.decoder(method.encode(patchify(images, 4), visible), order)
    mask = torch.ones(3, method.patches).scatter(1, visible, 0.0).double().numpy()
    patches = slow_patches(images.double().numpy(), 4)
    predicted = prediction.double().numpy()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_loss(predicted, patches, mask, normalize), rel=1e-5)
    painted_over = predicted + 100 * (1 - mask[..., None])  # what is predicted at visible places does not matter
    assert loss.item() == pytest.approx(slow_loss(painted_over, patches, mask, normalize), rel=1e-5)
    everywhere = np.ones_like(mask)
    assert loss.item() != pytest.approx(slow_loss(predicted, patches, everywhere, normalize), rel=1e-5)


def test_decoder_predicts_the_rows_it_is_asked_for() -> None:
    method = mae()
    latent, order, hidden = shown(method, pictures(4), method.draw(0, 0, range(4)))
    with torch.no_grad():
        everything, some = method.decoder(latent, order), method.decoder(latent, order, hidden)
    for image in range(4):
        assert torch.allclose(some[image], everything[image, hidden[image]], atol=1e-6)


def test_decoder_puts_tokens_back_into_place() -> None:
    method, seen = mae(), []
    entrance = method.decoder.get_submodule("blocks.0.norm1")
    handle = entrance.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    latent, order, _ = shown(method, pictures(4), method.draw(0, 0, range(4)))
    handle.remove()
    decoder = method.decoder
    with torch.no_grad():
        placed, embedded = seen[0] - decoder.pos_embed, decoder.embed(latent)
    assert torch.allclose(placed[:, 0], embedded[:, 0], atol=1e-6)
    for image in range(4):
        for rank, patch in enumerate(order[image].tolist()):
            expected = embedded[image, 1 + rank] if rank < method.kept else decoder.mask_token[0, 0]
            assert torch.allclose(placed[image, 1 + patch], expected, atol=1e-6)


def test_hidden_patches_do_not_reach_the_encoder() -> None:
    method, images = mae(), pictures(2)
    draws = method.draw(0, 0, range(2))
    latent, _, hidden = shown(method, images, draws)
    patches = patchify(images, 4)
    noise = torch.randn(2, hidden.shape[1], patches.shape[-1], generator=torch.Generator().manual_seed(1))
    changed = unpatchify(patches.scatter(1, hidden.unsqueeze(-1).expand_as(noise), noise), 4, 3)
    assert not torch.equal(changed, images)
    assert torch.equal(shown(method, changed, draws)[0], latent)


def test_gathering_first_is_embedding_first() -> None:
    method, images = mae(), pictures(4)
    encoder = method.encoder
    visible = torch.argsort(method.draw(0, 0, range(4))["noise"], dim=1)[:, : method.kept]
    with torch.no_grad():
        ours = method.encode(patchify(images, 4), visible)
        tokens = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
        chosen = torch.stack([tokens[image, visible[image]] for image in range(4)])
        class_token = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(4, -1, -1)
        theirs = encoder.norm(encoder.blocks(torch.cat([class_token, chosen], dim=1)))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_all_visible_in_place_order_is_timms_forward() -> None:
    method, images = mae().eval(), pictures(2)
    everything = torch.arange(16).expand(2, -1)
    with torch.no_grad():
        assert torch.allclose(
            method.encode(patchify(images, 4), everything), method.encoder.forward_features(images), atol=1e-5
        )


@pytest.mark.parametrize(
    "recipe",
    [
        *(toy.mae(), toy.mae_hog(), toy.maskfeat(), toy.simmim(), toy.simmim_swin()),
        *(toy.classifier(), toy.swin_classifier()),
    ],
    ids=lambda recipe: recipe.name,
)
def test_gradient_reaches_every_trainable_parameter(recipe: Recipe) -> None:
    method = build(recipe, 10)
    method(pictures(6, 1, 8), torch.arange(6), method.draw(0, 0, range(6))).loss.backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize(("channels", "side", "size"), [(1, 8, 2), (3, 12, 4), (3, 20, 5)])
def test_patchify_and_back(channels: int, side: int, size: int) -> None:
    images = pictures(2, channels, side)
    patches = patchify(images, size)
    assert np.array_equal(patches.double().numpy(), slow_patches(images.double().numpy(), size))
    assert torch.equal(unpatchify(patches, size, channels), images)


class Recorder(nn.Module):
    """Stands in for the classifier: keeps the images and scores them with a fixed linear map."""

    def __init__(self, values: int, classes: int) -> None:
        """Draw the map."""
        super().__init__()
        random = torch.Generator().manual_seed(2)
        self.weight = torch.randn(values, classes, generator=random, dtype=torch.float64)
        self.images: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, classes]."""
        self.images.append(images)
        return (images.double().flatten(1) @ self.weight).float()


def recorded(**changes: Any) -> tuple[SupervisedClassifier, Recorder]:
    method, recorder = classifier(**changes), Recorder(64, 10)
    method.encoder = recorder
    return method, recorder


def slow_cross_entropy(scores: Floats, targets: Floats) -> float:
    losses = []
    for score, target in zip(scores, targets, strict=True):
        log_sum = np.log(sum(np.exp(value - score.max()) for value in score)) + score.max()
        losses.append(-sum(share * (value - log_sum) for share, value in zip(target, score, strict=True)))
    return float(np.mean(losses))


def slow_mixed(
    images: Floats, labels: list[int], weight: Floats, smoothing: float, classes: int = 10
) -> tuple[Floats, Floats]:
    """Mix pixel by pixel with the neighbour; return images and targets."""
    mixed, targets = np.empty_like(images), np.zeros((len(images), classes))
    share = sum(weight.ravel()) / weight.size
    for i in range(len(images)):
        j = i + 1 if i % 2 == 0 else i - 1
        for c, y, x in np.ndindex(*images.shape[1:]):
            mixed[i, c, y, x] = weight[0, 0, y, x] * images[i, c, y, x] + (1 - weight[0, 0, y, x]) * images[j, c, y, x]
        targets[i, labels[i]] += share
        targets[i, labels[j]] += 1 - share
        targets[i] = (1 - smoothing) * targets[i] + smoothing / classes
    return mixed, targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_mixing_is_the_slow_formula(mixing: str, smoothing: float) -> None:
    method, recorder = recorded(method={mixing: 1.0, "label_smoothing": smoothing})
    images, labels = pictures(6, 1, 8), torch.tensor([3, 1, 4, 1, 5, 5])
    shares = []
    for step in range(4):
        draws = method.draw(0, step, range(6))
        loss = method(images, labels, draws).loss.item()
        mixed, targets = slow_mixed(
            images.double().numpy(), labels.tolist(), draws["weight"].double().numpy(), smoothing
        )
        assert np.allclose(recorder.images[-1].numpy(), mixed, atol=1e-6)
        scores = mixed.reshape(6, -1) @ recorder.weight.numpy()
        assert loss == pytest.approx(slow_cross_entropy(scores, targets), rel=1e-4)
        shares.append(float(draws["weight"].mean()))
    assert len(set(shares)) == 4


def test_mixed_images_do_not_depend_on_micro_batches() -> None:
    method, recorder = recorded(method={"mixup": 0.8, "cutmix": 1.0})
    images, labels = pictures(8, 1, 8), torch.arange(8)
    for step in range(4):
        recorder.images.clear()
        whole = method(images, labels, method.draw(0, step, range(8))).loss
        for size in (2, 4):
            rows = [range(start, start + size) for start in range(0, 8, size)]
            losses = [
                method(images[r.start : r.stop], labels[r.start : r.stop], method.draw(0, step, r)).loss for r in rows
            ]
            assert torch.stack(losses).mean().item() == pytest.approx(whole.item(), rel=1e-5)
        first, *parts = recorder.images
        assert torch.equal(torch.cat(parts[:4]), first)
        assert torch.equal(torch.cat(parts[4:]), first)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_the_textbook_formula(smoothing: float) -> None:
    method, recorder = recorded(method={"label_smoothing": smoothing})
    images, labels = pictures(5, 1, 8), torch.tensor([0, 9, 2, 2, 7])
    assert method.draw(0, 0, range(5)) == {}
    loss = method(images, labels, {}).loss
    targets = np.full((5, 10), smoothing / 10)
    targets[np.arange(5), labels.numpy()] += 1 - smoothing
    assert torch.equal(recorder.images[0], images)
    scores = images.double().flatten(1).numpy() @ recorder.weight.numpy()
    assert loss.item() == pytest.approx(slow_cross_entropy(scores, targets), rel=1e-5)


def weights(count: int, side: int = 16, **settings: float) -> list[Floats]:
    method = classifier(encoder={"image_size": side}, method=settings)
    drawn = [method.draw(0, step, range(2))["weight"] for step in range(count)]
    assert all(weight.shape == (1, 1, side, side) and weight.dtype == torch.float32 for weight in drawn)
    return [weight[0, 0].double().numpy() for weight in drawn]


@pytest.mark.parametrize("alpha", [0.2, 0.8])
def test_mixup_weights_are_beta_distributed(alpha: float) -> None:
    drawn = weights(1500, mixup=alpha)
    assert all((weight == weight[0, 0]).all() for weight in drawn)
    shares = np.array([weight[0, 0] for weight in drawn])
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares.mean() == pytest.approx(0.5, abs=0.05)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_cutmix_cuts_a_box() -> None:
    areas = []
    for weight in weights(1500, cutmix=1.0):
        assert set(np.unique(weight)) <= {0.0, 1.0}
        rows, columns = np.nonzero(weight == 0)
        areas.append(len(rows))
        if len(rows):
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == len(rows)  # the zeros fill their bounding box
    shares = np.array(areas) / 256
    # A box of area share U(0, 1) around a uniform centre, cut at the borders: integrated numerically.
    sides = np.sqrt(np.linspace(0, 1, 2001))
    assert shares.mean() == pytest.approx(float(np.mean((sides * (1 - sides / 4)) ** 2)), abs=0.05)
    assert 0.7 < shares.max() <= 14**2 / 16**2  # the side is even: the same number of pixels either way of the centre
    assert shares.min() < 0.02


def test_mixup_and_cutmix_take_turns() -> None:
    drawn = weights(1000, mixup=0.8, cutmix=1.0)
    constant = [weight for weight in drawn if 0 < weight[0, 0] < 1]
    assert len(constant) / 1000 == pytest.approx(0.5, abs=0.06)
    drawn = weights(1000, mixup=0.8, mix_probability=0.3)
    assert sum(bool((weight == 1).all()) for weight in drawn) / 1000 == pytest.approx(0.7, abs=0.06)


def test_mean_pooling_leaves_the_class_token_out() -> None:
    model: Any = classifier(encoder={"depth": 2}).encoder.eval()
    nn.init.normal_(model.fc_norm.weight, 1.0, 0.3)
    images, seen = pictures(3, 1, 8), []
    handle = model.blocks[-1].register_forward_hook(lambda *parts: seen.append(parts[2]))
    with torch.no_grad():
        logits = model(images)
        pooled = seen[0][:, 1:].sum(dim=1) / 4  # [B, D], 4 patches
        centred = pooled - pooled.mean(dim=1, keepdim=True)
        normed = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
        normed = normed * model.fc_norm.weight + model.fc_norm.bias
        manual = normed @ model.head.weight.T + model.head.bias
        assert torch.allclose(logits, manual, atol=1e-5)
        handle.remove()
        model.blocks[-1].register_forward_hook(lambda *parts: parts[2] + torch.tensor([9.0, 0, 0, 0, 0]).view(1, 5, 1))
        assert torch.allclose(model(images), logits, atol=1e-6)


def test_token_pooling_is_the_class_token_after_the_final_norm() -> None:
    encoder = toy.classifier().plain_encoder
    model: Any = build_classifier(encoder, 10, "token", seed=0).eval()
    images = pictures(3, 1, 8)
    with torch.no_grad():
        tokens = model.forward_features(images)
        assert torch.allclose(model(images), tokens[:, 0] @ model.head.weight.T + model.head.bias, atol=1e-6)
        assert torch.allclose(tokens.mean(dim=-1), torch.zeros(3, 5), atol=1e-6)  # the norm was applied


def test_drop_path_is_off_in_eval_mode() -> None:
    plain = classifier(encoder={"depth": 3})
    dropping = classifier(encoder={"depth": 3, "drop_path": 0.5})
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in dropping.encoder.blocks]
    assert rates == pytest.approx([0.0, 0.25, 0.5])
    images = pictures(8, 1, 8)
    with torch.no_grad():
        torch.manual_seed(0)
        first = dropping.train().encoder(images)
        assert not torch.allclose(first, dropping.encoder(images))
        dropping.eval()
        assert torch.equal(dropping.encoder(images), plain.eval().encoder(images))


@pytest.mark.parametrize(("channels", "side", "patch"), [(1, 8, 2), (1, 28, 7), (3, 32, 4)])
def test_other_sizes(channels: int, side: int, patch: int) -> None:
    size = {"channels": channels, "image_size": side, "patch_size": patch}
    pixels = {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    images, labels = pictures(2, channels, side), torch.tensor([0, 1])
    for recipe in (toy.mae(encoder=size, augmentation=pixels), toy.classifier(encoder=size, augmentation=pixels)):
        method = build(recipe, 10)
        output = method(images, labels, method.draw(0, 0, range(2)))
        assert torch.isfinite(output.loss)
        assert output.loss.ndim == 0
    assert isinstance(recipe.method, Supervised)
    assert method.encoder(images).shape == (2, 10)


def test_positions_of_the_same_grid_stay_as_they_are() -> None:
    table = torch.randn(1, 1 + 9, 4, generator=torch.Generator().manual_seed(0))
    assert resized_positions(table, 10) is table


@pytest.mark.parametrize("new", [2, 3, 7])
def test_resized_positions(new: int, caplog: pytest.LogCaptureFixture) -> None:
    table = torch.randn(1, 1 + 16, 4, generator=torch.Generator().manual_seed(0))
    across = torch.arange(4.0).repeat(4, 1)  # [row, column]: grows with the column
    table[0, 1:, 0], table[0, 1:, 1], table[0, 1:, 2] = across.flatten(), across.T.flatten(), 3.0
    resized = resized_positions(table, 1 + new**2)
    assert f"from a 4 x 4 grid to {new} x {new}" in caplog.text
    assert resized.shape == (1, 1 + new**2, 4)
    assert torch.equal(resized[:, 0], table[:, 0])
    grid = resized[0, 1:].reshape(new, new, 4)
    assert torch.allclose(grid[..., 2], torch.tensor(3.0), atol=1e-5)
    assert torch.allclose(grid[..., 0], grid[:1, :, 0].expand(new, new), atol=1e-5)
    assert torch.allclose(grid[..., 1], grid[:, :1, 1].expand(new, new), atol=1e-5)
    assert bool((grid[0, 1:, 0] > grid[0, :-1, 0]).all())
    assert torch.allclose(grid[..., 0], grid[..., 1].T, atol=1e-5)
    assert grid[..., 0].mean().item() == pytest.approx(1.5, abs=1e-4)


@pytest.mark.parametrize(("rows", "positions"), [(10, 12), (12, 10), (16, 17)])
def test_positions_without_a_square_grid_are_refused(rows: int, positions: int) -> None:
    with pytest.raises(ConfigError, match="square grid"):
        resized_positions(torch.zeros(1, rows, 4), positions)
