"""The norm of the gradient that reaches each layer."""

from typing import Any

from keras import ops

from keras_cnns.training.callbacks.diagnostic import ProbeDiagnostic
from keras_cnns.training.callbacks.probe import Pass, Probe, Tensors


class GradientNorm(ProbeDiagnostic):
    """Measure the L2 norm of the gradient of the loss with respect to each layer's kernel.

    Metrics: `gradient_norm/layer`; `gradient_norm` over all kernels; `gradient_ratio`, the norm in
    the first layer divided by the norm in the last layer. If the ratio tends to 0 for deeper
    models, the gradient vanishes; if it tends to infinity, the gradient explodes.

    Args:
        probe: the batch to run the model on.
        last: the name of the layer that counts as the last one. If the model has no layer of this
            name, the layer that runs last counts, which may belong to an auxiliary head.
        options: the options of `Diagnostic`.

    References:
        Bengio, Simard and Frasconi 1994, Learning long-term dependencies with gradient descent is
        difficult. Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward
        neural networks, section 4.2.
    """

    layer_metrics = ("gradient_norm",)

    def __init__(self, probe: Probe, *, last: str = "", **options: Any) -> None:
        super().__init__(probe, **options)
        self.last = last

    def compute(self, tensors: Pass) -> Tensors:
        """Return sqrt(sum g^2) for each layer that has a kernel."""
        return {
            f"gradient_norm/{layer}": ops.sqrt(sum(ops.sum(ops.square(g)) for g in gradients))
            for layer, gradients in tensors.gradients.items()
        }

    def summarise(self, metrics: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return the norm over all kernels, and the first norm divided by the last."""
        norms = metrics["gradient_norm"]
        if not norms:
            return {}
        ordered = list(norms.values())
        last = norms.get(self.last, ordered[-1])
        ratio = ordered[0] / last if last else float("nan")
        total = sum(norm**2 for norm in ordered) ** 0.5
        return {"gradient_norm": total, "gradient_ratio": ratio}
