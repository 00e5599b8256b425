"""The form for Hugging Face's ``transformers``: its own class where one computes the same, else its wrapper of timm.

Shapes: B images, N patches, K of them visible, P values of a patch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_lite import config, draws
from mae_lite.errors import CheckpointError
from mae_lite.evaluation import incoming, load
from mae_lite.exporting import torch_forms
from mae_lite.exporting.opened import EMBEDDING, Opened, Tap, TorchModel, of_timm
from mae_lite.exporting.work import Form, Work
from mae_lite.methods.mae import patchify
from mae_lite.models import hugging_face, sizes
from mae_lite.models.relative import has_tables

_PAINTING = "the decoder's embedding"


def _painter(work: Work) -> config.MAE | None:
    """Return the method of a run whose decoder transformers has too."""
    recipe = work.subject.recipe
    return recipe.method if recipe is not None and isinstance(recipe.method, config.MAE) else None


def _write(work: Work) -> dict[str, bytes]:
    subject, method = work.subject, _painter(work)
    if method is not None and subject.run is not None and subject.recipe is not None:
        tensors, encoder = load.load_method(subject.run).model.state_dict(), subject.recipe.plain_encoder
        written = hugging_face.contents(tensors, encoder, method, subject.source)
        work.note("huggingface", "a masked autoencoder: compared, and timed, with patches hidden as in pre-training")
    elif (plain := _plain(work)) is not None:
        classes = subject.classes or [f"LABEL_{number}" for number in range(subject.model.num_classes)]
        named = classes if subject.output == "logits" else None
        tensors, encoder = plain
        written = hugging_face.contents(tensors, encoder, None, subject.source, named)
    else:
        work.note("huggingface", "transformers has no class of its own for this model: it wraps timm's")
        return torch_forms.timm_folder(work)
    preparation = {"mean": list(subject.augmentation.mean), "std": list(subject.augmentation.std)}
    return {**written, "preprocessor_config.json": hugging_face.preprocessor(encoder, preparation)}


def _plain(work: Work) -> tuple[dict[str, Tensor], config.Encoder] | None:
    """Return tensors by our names, and what they belong to, of a model that ViTModel can be; None for others."""
    subject = work.subject
    try:
        source = incoming.read(str(subject.folder))
        tensors = {name: value.float() for name, value in source.found.tensors.items() if name.startswith("encoder.")}
        if has_tables(tensors) or "encoder.norm.weight" not in tensors or source.pooling == "avg" or not source.heads:
            return None
        return tensors, sizes.encoder_size(tensors, source.heads, subject.source)
    except CheckpointError:  # another architecture of timm
        return None


def _open(folder: Path, work: Work) -> Opened:
    library = hugging_face.quiet_library()
    settings = json.loads((folder / "config.json").read_text())
    kind = settings.get("architectures", [""])[0]
    if kind == "ViTMAEForPreTraining":
        model = library.ViTMAEForPreTraining.from_pretrained(folder).eval()
        return _Painter(lambda images: model(images, noise=_noise(images, work)).logits, _taps_of_painter(model))
    if kind == "ViTForImageClassification":
        model = library.ViTForImageClassification.from_pretrained(folder).eval()
        return TorchModel(lambda images: model(images).logits, _taps(model.vit, "blocks"))
    if kind == "ViTModel":
        model = library.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
        return TorchModel(lambda images: model(images).last_hidden_state, _taps(model, "blocks"))
    if work.subject.output == "logits":
        model = library.AutoModelForImageClassification.from_pretrained(folder).eval()
        return of_timm(model.timm_model, lambda images: model(images).logits)
    model = library.AutoModel.from_pretrained(folder).eval()
    return of_timm(model.timm_model, lambda images: model(images).last_hidden_state)


class _Painter(TorchModel):
    """A masked autoencoder of transformers, whose decoder keeps the class token to its end."""

    def states(self, images: Tensor) -> dict[str, Tensor]:
        seen = super().states(images)
        last = next(reversed(seen))
        return {**seen, last: seen[last][:, 1:]}  # ours drops it behind the last block


def _taps(model: nn.Module, name: str, ending: tuple[str, ...] = ("layers", "encoder.layer")) -> dict[str, Tap]:
    """Return taps on the embedding and on each of a model's layers, by our names."""
    found = (part for path, part in model.named_modules() if isinstance(part, nn.ModuleList) and path.endswith(ending))
    layers = next(found, nn.ModuleList())  # transformers 4 and 5 name it differently
    embedding: dict[str, Tap] = {EMBEDDING: (layers[0], "in")} if len(layers) else {}
    return embedding | {f"{name}.{number}": (layer, "out") for number, layer in enumerate(layers)}


def _taps_of_painter(model: Any) -> dict[str, Tap]:
    decoder = _taps(model.decoder, "decoder.blocks", ("decoder_layers",))
    renamed = {_PAINTING if name == EMBEDDING else name: tap for name, tap in decoder.items()}
    return _taps(model.vit, "encoder.blocks") | renamed


def _reference(work: Work) -> Opened:
    """Return what the run's own encoder and decoder paint, [B, N, P], where transformers has the decoder too."""
    run = work.subject.run
    if _painter(work) is None or run is None:
        return work.reference
    method = load.load_method(run).model.requires_grad_(False)

    def paint(images: Tensor) -> Tensor:
        order = torch.argsort(_noise(images, work), dim=1, stable=True)
        latent = method.encode(patchify(images, method.patch_size), order[:, : method.kept])
        return method.decoder(latent, order)  # type: ignore[no-any-return]

    encoder, decoder = method.encoder, method.decoder
    taps = _entries(EMBEDDING, "encoder.blocks", encoder.blocks, encoder.norm)
    return TorchModel(paint, taps | _entries(_PAINTING, "decoder.blocks", decoder.blocks, decoder.norm))


def _entries(first: str, name: str, blocks: Any, norm: nn.Module) -> dict[str, Tap]:
    """Return taps where blocks begin: masked autoencoders run the parts of a block, never the block itself."""
    entrances = [*(block.norm1 for block in blocks), norm]
    names = [first, *(f"{name}.{number}" for number in range(len(blocks)))]
    return {own: (entrance, "in") for own, entrance in zip(names, entrances, strict=True)}


def _noise(images: Tensor, work: Work) -> Tensor:
    """Return numbers [B, N] whose order hides patches: the same for every image, however images are batched."""
    recipe = work.subject.recipe
    order = draws.permutation(draws.key(0, "export mask"), 0 if recipe is None else recipe.plain_encoder.patches)
    return torch.from_numpy(order).float().expand(len(images), -1)


FORM: Form = Form(_write, _open, reference=_reference)
