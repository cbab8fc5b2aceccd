"""Statistics of what goes into the linear layers, against the activations themselves."""

from __future__ import annotations

import numpy as np

from ortgpt_export.calibration import observe
from ortgpt_export.config import GPT2Config
from ortgpt_export.reference import forward

TEXTS = [tuple(np.random.default_rng(i).integers(0, 257, 3 + 5 * i).tolist()) for i in range(4)]


def test_every_channels_root_mean_square_is_over_all_tokens_of_all_texts(
    weights_of_two_layers: tuple[dict[str, np.ndarray], GPT2Config],
) -> None:
    weights, config = weights_of_two_layers
    inputs: dict[str, list[np.ndarray]] = {}
    for text in TEXTS:
        forward(
            weights, config, np.array(text), observe=lambda name, x: inputs.setdefault(name, []).append(x)
        )
    done: list[tuple[int, int]] = []
    seen = observe(weights, config, TEXTS, lambda *numbers: done.append(numbers))
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert set(seen) == {f"h.{layer}.{name}" for layer in range(2) for name in layers}
    for name, values in seen.items():
        rows = np.concatenate(inputs[name]).astype(np.float64)
        assert len(rows) == sum(map(len, TEXTS))
        assert values.shape == (weights[f"{name}.weight"].shape[0],)
        np.testing.assert_allclose(values, np.sqrt((rows**2).mean(axis=0)), rtol=1e-5)
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_goes_into_a_layer_is_what_its_weights_multiply(
    weights_of_two_layers: tuple[dict[str, np.ndarray], GPT2Config],
) -> None:
    """The first layer's input is its norm of the embeddings, written out here."""
    weights, config = weights_of_two_layers
    x = weights["wte.weight"][list(TEXTS[1])] + weights["wpe.weight"][: len(TEXTS[1])]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.layer_norm_epsilon)
    x = x * weights["h.0.ln_1.weight"] + weights["h.0.ln_1.bias"]
    seen = observe(weights, config, TEXTS[1:2])["h.0.attn.c_attn"]
    np.testing.assert_allclose(seen, np.sqrt((x**2).mean(axis=0)), rtol=1e-4)
