"""How large the gradient is that reaches each layer."""

from typing import Any

from keras import ops

from keras_cnns.training.callbacks.diagnostic import ProbeDiagnostic
from keras_cnns.training.callbacks.probe import Pass, Probe, Tensors


class GradientNorm(ProbeDiagnostic):
    """Measure the L2 norm of the loss's gradient by each layer's kernel.

    Figures: `gradient_norm/layer`; `gradient_norm` over all kernels; `gradient_ratio`, that of the
    first layer by that of the last. A ratio that goes to 0 as the net gets deeper is the vanishing
    gradient, one that goes to infinity the exploding.

    Args:
        probe: the batch to look at.
        last: the layer to compare the first with, if there is one of this name: where a net has
            auxiliary heads, one of theirs may run last; by default whichever does.
        options: those of `Diagnostic`.

    References:
        Bengio, Simard and Frasconi 1994, Learning long-term dependencies with gradient descent is
        difficult. Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward
        neural networks, section 4.2.
    """

    layer_figures = ("gradient_norm",)

    def __init__(self, probe: Probe, *, last: str = "", **options: Any) -> None:
        super().__init__(probe, **options)
        self.last = last

    def look(self, seen: Pass) -> Tensors:
        """Return sqrt(sum g^2) for each layer that has a kernel."""
        return {
            f"gradient_norm/{layer}": ops.sqrt(sum(ops.sum(ops.square(g)) for g in gradients))
            for layer, gradients in seen.gradients.items()
        }

    def summarise(self, figures: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return the norm over all kernels, and the first layer's by the last layer's."""
        norms = figures["gradient_norm"]
        if not norms:
            return {}
        ordered = list(norms.values())
        last = norms.get(self.last, ordered[-1])
        ratio = ordered[0] / last if last else float("nan")
        whole = sum(norm**2 for norm in ordered) ** 0.5
        return {"gradient_norm": whole, "gradient_ratio": ratio}
