"""Training methods; :func:`build` is the one place that knows them all."""

from __future__ import annotations

from typing import assert_never

from mae_lite import config
from mae_lite.methods.base import Method
from mae_lite.methods.dino import SelfDistillation
from mae_lite.methods.distilled import DistilledAutoencoder
from mae_lite.methods.distilled_simmim import DistilledPixelRegression
from mae_lite.methods.features import FeatureDistiller
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.methods.mae_hog import GradientAutoencoder
from mae_lite.methods.maskfeat import FeaturePrediction
from mae_lite.methods.mocov3 import MomentumContrast
from mae_lite.methods.simmim import PixelRegression
from mae_lite.methods.supervised import SupervisedClassifier


def build(recipe: config.Recipe, num_classes: int) -> Method:
    """Build the method of ``recipe``; ``num_classes`` is for methods with a classification head."""
    match recipe.method:
        case config.MAE() as method:
            return MaskedAutoencoder(recipe, method)
        case config.DistilledMAE() as method:
            return DistilledAutoencoder(recipe, method)
        case config.HOGAutoencoder() as method:
            return GradientAutoencoder(recipe, method)
        case config.MaskFeat() as method:
            return FeaturePrediction(recipe, method)
        case config.SimMIM() as method:
            return PixelRegression(recipe, method)
        case config.DistilledSimMIM() as method:
            return DistilledPixelRegression(recipe, method)
        case config.FeatureDistillation() as method:
            return FeatureDistiller(recipe, method)
        case config.MoCoV3() as method:
            return MomentumContrast(recipe, method)
        case config.DINO() as method:
            return SelfDistillation(recipe, method)
        case config.Supervised() as method:
            return SupervisedClassifier(recipe, method, num_classes)
        case never:
            assert_never(never)
