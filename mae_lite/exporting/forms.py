"""Every form by its name."""

from __future__ import annotations

from mae_lite.exporting import int8_form, onnx_form, torch_forms, transformers_form
from mae_lite.exporting.work import Form

FORMS: dict[str, Form] = {
    "timm": torch_forms.TIMM,
    "timm-half": torch_forms.HALF,
    "huggingface": transformers_form.FORM,
    "torch-export": torch_forms.PROGRAM_FORM,
    "onnx": onnx_form.FORM,
    int8_form.NAME: int8_form.FORM,
}
