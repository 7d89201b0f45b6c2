"""Integer form of the convolution."""

from __future__ import annotations

from mulfree.operators.integer_form import ProductForm


class _ConvolutionForm(ProductForm):
    """The convolution in int8."""

    node = "conv2d"


INTEGER_FORM = _ConvolutionForm()
