"""Gradients that go back layer by layer are those of the whole model."""

import pytest
import torch

from prune_exp.model.architectures import layers_of
from prune_exp.pruning.layer_stream import LayerStream, watch_modules
from prune_exp.pruning.taylor import taylor_effects
from support.models import MODEL_TYPES, make_tiny

IDS = torch.randint(1, 300, (3, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_effects_are_those_of_the_whole_models_gradients(model_type: str) -> None:
    model = make_tiny(model_type)
    layers = layers_of(model)
    calls = LayerStream(model, IDS)
    states = [calls.hidden]
    for index, layer in enumerate(layers):
        states.append(calls.run(layer, index, states[-1]))
    found = taylor_effects(model, calls, IDS, states)
    expected: dict[str, list[torch.Tensor]] = {"mlp": [], "heads": [], "vocab": []}
    for block in IDS:
        mlp: list[torch.Tensor] = []
        heads: list[torch.Tensor] = []
        inputs = {layer.mlp_out: mlp.append for layer in layers}
        inputs |= {layer.heads_out: heads.append for layer in layers}
        embedded = model.get_input_embeddings()(block[None]).requires_grad_(True)
        with watch_modules(inputs, {}):
            output = model(inputs_embeds=embedded, labels=block[None], use_cache=False)
        wanted = [*mlp, *heads, embedded, output.logits]
        grads = torch.autograd.grad(output.loss, wanted)
        *inside, read, written = [
            (v * g).detach().flatten(0, -2) for v, g in zip(wanted, grads, strict=True)
        ]
        expected["mlp"].append(torch.stack([one.sum(0) for one in inside[:4]]))
        by_head = [one.sum(0).view(-1, 8).sum(1) for one in inside[4:]]
        expected["heads"].append(torch.stack(by_head))
        expected["vocab"].append(written.sum(0).index_add(0, block, read.sum(-1)))
    for name, blocks in expected.items():
        value = torch.stack(blocks).abs().mean(0)
        torch.testing.assert_close(found[f"{name}_taylor"], value, rtol=1e-4, atol=1e-6)
